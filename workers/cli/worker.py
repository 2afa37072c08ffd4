"""`esper worker`: one worker in the foreground, for a container or a terminal."""

import typer

from esper.settings import Settings

app = typer.Typer(
    help="Run one worker in the foreground until SIGTERM; settings come from the environment.",
    no_args_is_help=True,
)


@app.command("compile")
def compile_worker() -> None:
    """Compile the blueprints for every open run: blueprints and runs in, signed kernels out."""
    from esper.compiler import ForkServer

    settings = Settings()
    # It imports torch while this process imports Faust.
    with ForkServer() as server:
        from esper.workers.compile import run_compile_worker
        from esper.workers.faust import configure_logging

        configure_logging(settings.log_format)
        code = run_compile_worker(settings, server=server)
    raise typer.Exit(code)


@app.command("audition")
def audition_worker() -> None:
    """Try kernels beside the trainings: snapshots in, gains and trained weights out."""
    from esper.workers.audition import run_audition_worker
    from esper.workers.faust import configure_logging

    settings = Settings()
    configure_logging(settings.log_format)
    raise typer.Exit(run_audition_worker(settings))


@app.command("bandit")
def bandit_worker() -> None:
    """Decide for every run: reports in, adaptation decisions out."""
    from esper.workers.bandit import run_bandit_worker
    from esper.workers.faust import configure_logging

    settings = Settings()
    configure_logging(settings.log_format)
    raise typer.Exit(run_bandit_worker(settings))
