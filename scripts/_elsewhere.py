"""Names of other libraries and their counterparts here: the rows of docs/coming_from.md.

`{kind:name}` and `{kind:name.field}` are looked up in the registry when the tables are written, so that every name
exists; NONE means that there is no counterpart, and is refused if a registered name is similar.
"""

NONE = "none"

TABLES = {
    "diffusers, samplers": (
        ("diffusers", "`sampler` here", "remarks"),
        ("`DDIMScheduler`, eta = 0", "{sampler:ddim}", ""),
        ("`DDIMScheduler`, eta > 0", "{sampler:ancestral}", "with {sampler:ancestral.eta}"),
        (
            "`DDPMScheduler`",
            "{sampler:ancestral}",
            '`variance_type` `fixed_small` is `variance="posterior"`, `fixed_large` is `"beta"`',
        ),
        ("`EulerDiscreteScheduler`", "{sampler:ddim}", "Euler's step in sigma / alpha is DDIM's"),
        ("`EulerAncestralDiscreteScheduler`", "{sampler:ancestral}", ""),
        (
            "`HeunDiscreteScheduler`",
            "{sampler:heun}",
            "on the process {process:edm}; elsewhere ours steps in t, theirs in sigma / alpha",
        ),
        ("`DPMSolverMultistepScheduler`, order 2, `midpoint`", "{sampler:dpm_solver_pp_2m}", ""),
        (
            "the same, order 3",
            "{sampler:dpm_solver_pp_3m}",
            "with twice their third-order term: order 3 in place of 2",
        ),
        ("the same, `sde-dpmsolver++`, order 2", "{sampler:sde_dpm_solver_pp_2m}", ""),
        (
            "`DPMSolverSinglestepScheduler`",
            "{sampler:dpm_solver_2}, {sampler:dpm_solver_3}, {sampler:dpm_solver_pp_2s}",
            "",
        ),
        (
            "`UniPCMultistepScheduler`",
            "{sampler:unipc}",
            "{sampler:unipc.order}, {sampler:unipc.variant}; our last step keeps its order, as with "
            "`lower_order_final=False`",
        ),
        (
            "`DEISMultistepScheduler`",
            "{sampler:deis}",
            "{sampler:deis.order}; the polynomial is in log-SNR in both",
        ),
        (
            "`FlowMatchEulerDiscreteScheduler`",
            "{sampler:euler}",
            "on {process:rectified_flow}; their sigma is our t",
        ),
    ),
    "diffusers, other words": (
        ("diffusers", "here"),
        ("`alphas_cumprod[k]`", "`alpha(t)**2` at t = (k + 1) / 1000"),
        (
            "timesteps k = 0 .. 999",
            "t = (k + 1) / 1000 of the processes {process:ddpm}, {process:proportional_beta}",
        ),
        (
            '`beta_schedule="linear"`',
            "process {process:ddpm} ({process:ddpm.beta_first}, {process:ddpm.beta_last})",
        ),
        (
            '`beta_schedule="squaredcos_cap_v2"`',
            "process {process:cosine}, in continuous time, cut at {process:cosine.t_max} in place of capped betas",
        ),
        ('`beta_schedule="scaled_linear"`', "six lines of your own, below"),
        ("`rescale_betas_zero_snr`", "process {process:zero_terminal_snr}"),
        (
            "`prediction_type` `epsilon`, `sample`, `v_prediction`",
            "predictions {prediction:noise}, {prediction:data}, {prediction:v}, with the same signs",
        ),
        (
            "`guidance_scale`",
            "{guidance:classifier_free.scale} of {guidance:classifier_free}: 0 unconditional, 1 conditional, the same "
            "numbers",
        ),
        ("`guidance_rescale`", "{guidance:rescale.phi} of {guidance:rescale}"),
        ("`num_inference_steps`", "number of evaluations; see below"),
        (
            "`timestep_spacing`",
            "{grid:chain.spacing} of the grid {grid:chain}: `leading`, `trailing`, `linspace`",
        ),
        ("`use_karras_sigmas=True`", "grid {grid:karras}"),
        ("`clip_sample=True`", "guidance {guidance:clip}, the last entry of the list"),
        ("`thresholding=True`", "guidance {guidance:dynamic_threshold}"),
        ("`generator=[...]`", "`--seed` alone: example i has its own key, whatever the batch size"),
    ),
    "k-diffusion, samplers": (
        ("k-diffusion", "`sampler` here", "remarks"),
        ("`sample_euler`", "{sampler:euler}", ""),
        ("`sample_heun`", "{sampler:heun}", "algorithm 1 of EDM"),
        (
            "`edm_sampler`",
            "{sampler:churn}",
            "algorithm 2: `inner=heun`, `s_churn`, `s_min`, `s_max`, `s_noise`",
        ),
        ("`sample_euler_ancestral`", "{sampler:ancestral}", "with {sampler:ancestral.eta}"),
        ("`sample_dpm_2`", "{sampler:dpm_solver_2}", ""),
        ("`sample_dpmpp_2s_ancestral`", "{sampler:dpm_solver_pp_2s}", "at `eta=0`"),
        ("`sample_dpmpp_2m`", "{sampler:dpm_solver_pp_2m}", ""),
        (
            "`sample_dpmpp_2m_sde`",
            "{sampler:sde_dpm_solver_pp_2m}",
            'at `eta=1`, `solver_type="midpoint"`',
        ),
        (
            "`sample_dpmpp_3m_sde`",
            "{sampler:dpm_solver_pp_3m}",
            "at `eta=0`; third-order term corrected, see its docstring",
        ),
        ("`sample_dpm_adaptive`", "{sampler:dpm_solver_12}", "order 2, without its step memory"),
    ),
    "k-diffusion, other words": (
        ("k-diffusion, EDM", "here"),
        ("`model(x, sigma)` returns denoised x", "`denoise(x_t, t)`, t a scalar or (batch,)"),
        (
            "wrappers for epsilon and v models",
            "`make_denoiser(network, params, process, prediction, cond)`",
        ),
        ("`extra_args`", "bound: `denoise.with_cond(cond)`"),
        (
            "`get_sigmas_karras(n, ...)`",
            "grid {grid:karras} ({grid:karras.rho}) with `num_steps=n - 1`; the final 0 is `denoise_last`",
        ),
        (
            "`num_steps=18` of EDM: 35 evaluations",
            "`num_steps=17` with {sampler:heun} and `denoise_last`: 35 evaluations",
        ),
        (
            "`callback`",
            "`solve(..., callback=...)`, or `solve(..., save=True).trajectory` in one dispatch",
        ),
        (
            "`c_skip`, `c_out`",
            "`skip`, `out` of prediction {prediction:edm} ({prediction:edm.sigma_data})",
        ),
        ("`c_in`", "`input_scale` of the prediction"),
        ("`c_noise` = log(sigma) / 4", "the log-SNR, -2 log(sigma); the networks divide it by 4"),
        ("loss weight lambda(sigma)", "weight {weight:edm} ({weight:edm.sigma_data})"),
        (
            "`P_mean`, `P_std`",
            "time {time:log_normal} ({time:log_normal.mean}, {time:log_normal.std})",
        ),
        ("EMA half-life in images", "`half_life_500000` in `ema`"),
    ),
    "azula": (
        ("azula", "`process` here", "remarks"),
        ("`VESchedule`", "{process:ve}", ""),
        ("`VPSchedule`", "{process:proportional_beta_limit}", "`rate = -log(alpha_min)`"),
        (
            "`CosineSchedule`",
            "{process:trigonometric}",
            "with alpha falling to 0 in place of `alpha_min`",
        ),
        ("`RectifiedSchedule`", "{process:rectified_flow}", "the same"),
    ),
    "score_sde": (
        ("score_sde", "here"),
        (
            "`VPSDE`, `subVPSDE`, `VESDE`",
            "processes {process:vp}, {process:sub_vp}, {process:ve}, with the same field names",
        ),
        ("`N` in the SDE", "`num_steps` of the grid: a process does not know how it is sampled"),
        ("`T`, the epsilons", "`t_max`, `t_min`"),
        ("`marginal_prob(x, t)`", "`alpha(t) * x`, `sigma(t)`"),
        ("`sde(x, t)`", "`forward_sde(process)`, or the scalars `f(t)`, `g(t)`"),
        (
            "`reverse(score_fn, probability_flow)`",
            "`reverse_sde(process, denoise)`, `probability_flow(process, denoise)`",
        ),
        (
            "a score function",
            "`score(process, denoise)` and back, `score_to_denoiser(process, score_fn)`",
        ),
        ("`prior_sampling`, `prior_logp`", "`sample_prior`, `prior_log_prob`"),
        ("Euler-Maruyama predictor", "sampler {sampler:euler_maruyama}"),
        (
            "ancestral predictor",
            'sampler {sampler:ancestral}, `variance="beta"` for VP, `"posterior"` for VE',
        ),
        (
            "Langevin corrector",
            "sampler {sampler:langevin} around the predictor, its {sampler:langevin.inner}: {sampler:langevin.snr}, "
            "{sampler:langevin.num_corrections}; the step follows from the expected norms",
        ),
        (
            "SciPy's RK45",
            'sampler {sampler:diffrax} with `solver="Dopri5"`, inside the compiled program',
        ),
        ("`likelihood.py`", "`log_prob(process, denoise, x, key=...)`"),
    ),
}

# Names of k-diffusion and diffusers without a counterpart, by kind; names must be removed when they are registered.
MISSING = {"sampler": ("lms", "ipndm", "gradient_estimation")}

# Kinds for which every registered name is in a table of the page, or in the line below the tables.
WHOLE = ("sampler", "process", "prediction", "grid")
