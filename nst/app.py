"""The Typer application: every command registers here."""

import importlib.metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

ORDER = [
    *("stylize", "batch", "resume", "preview", "reference", "export", "prepare", "runs", "queue", "compare", "report"),
    *("doctor", "gallery", "bench", "dashboard", "worker"),
]


class _InOrder(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        """Return the commands in the order in which a new user needs them."""
        return sorted(super().list_commands(ctx), key=ORDER.index)


app = typer.Typer(cls=_InOrder, no_args_is_help=True, rich_markup_mode="rich")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"Style Transfer Studio {importlib.metadata.version('style-transfer-studio')}")
        raise typer.Exit()


@app.callback()
def style_transfer_studio(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")] = False,
) -> None:
    """Paint a photo in the style of a painting; watch, measure and compare the runs."""
