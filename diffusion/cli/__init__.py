"""The command `demolish`: one module per subcommand (train, sample, evaluate, ...).

Each of these modules has two functions: `command_line()` returns the Parser, `main(flags)` does the work and
returns an exit code. JAX and other slow imports happen inside functions, so that --help answers at once.
"""

from diffusion.cli.commands import main, start

__all__ = ["main", "start"]
