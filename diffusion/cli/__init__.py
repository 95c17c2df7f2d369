"""The command `demolish`: train, sample, evaluate and the other programs.

Each program is a module with two functions: `command_line()` returns its Parser, `main(flags)` does the work and
returns an exit code. Everything heavy is imported inside functions, so that --help answers at once.
"""

from diffusion.cli.commands import main, start

__all__ = ["main", "start"]
