"""Commands that prepare and serve: export, prepare, doctor, dashboard, worker."""

from dataclasses import asdict
from pathlib import Path

import typer
from rich.text import Text

from nst import console
from nst.app import app
from nst.engine import load_engine
from nst.options import Json, Weights


@app.command()
def export(weights: Weights = None, as_json: Json = False) -> None:
    """Convert VGG19 to ONNX and check that both compute the same."""
    from core.machine import hardware

    hardware.import_tensorflow()
    from core.vgg.onnx import gram_output
    from core.vgg.weights import obtain
    from export import onnx_model

    model = onnx_model.export(obtain(weights, console.tell), console.tell)
    parity = model.manifest.parity
    if as_json:
        console.print_json({"model": str(model.path), **model.manifest.model_dump(mode="json")})
        return
    layers = [name for name in parity if "/" not in name]
    console.print_table(
        ["layer", "relative error, features", "relative error, Gram matrix"],
        [[layer, f"{parity[layer]:.1e}", f"{parity[gram_output(layer)]:.1e}"] for layer in layers],
    )
    console.tell(f"Compared on {', '.join(model.manifest.parity_images)}. The model is {model.path}")


@app.command()
def prepare(weights: Weights = None) -> None:
    """Download and convert everything that runs and previews need, so that they work offline."""
    from core.machine import hardware
    from core.timings import Timings
    from core.transfer.preview import obtain

    with console.working() as report:
        hardware.import_tensorflow()
        load_engine(weights, report, Timings())
        obtain(report)
    console.tell("Runs and previews now work offline.")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check this machine: what it has, what runs will use, what is missing and how to fix it."""
    from nst.doctor import examine

    findings = examine()
    if as_json:
        console.print_json([asdict(finding) for finding in findings])
    else:
        marks = {"ok": "[green]✓[/green]", "note": "[yellow]•[/yellow]", "missing": "[red]✗[/red]"}
        console.print_table(
            ["", "what", "found", "remedy"],
            [[Text.from_markup(marks[f.state]), f.what, f.found, f.remedy] for f in findings],
        )
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(1)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def dashboard(context: typer.Context) -> None:
    """Open the dashboard in the browser. Further options go to Streamlit (--server.port 8600 …)."""
    from core.jobs import workers
    from dashboard import metrics

    metrics.serve_where_asked()
    workers.ensure_workers()  # for runs that waited when the machine went down
    from streamlit.web import cli

    page = Path(__file__).parents[1] / "dashboard" / "app.py"
    cli.main(["run", str(page), *context.args], prog_name="streamlit")  # in this process, because it serves the metrics


@app.command(hidden=True)
def worker() -> None:
    """Perform queued runs one after another, in its own slot. The dashboard starts workers itself."""
    from core import log
    from core.jobs.worker import work

    log.begin()
    work(lambda report, timings: load_engine(None, report, timings))
