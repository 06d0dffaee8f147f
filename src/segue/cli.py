"""The command line: ``segue demo | run | data | strip | samples | respond | judge | status | report | cite``."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.console import Console

    from segue.experiments.families import Preset
    from segue.runs.records import Record

__all__ = ["main"]

_BIBTEX = """\
@misc{{patil2026loss,
  title         = {{Loss smoothing}},
  author        = {{Patil and Lobacheva and Pascanu and Chandar}},
  year          = {{2026}},
  eprint        = {{2607.00634}},
  archivePrefix = {{arXiv}},
}}
@software{{segue,
  title   = {{Segue: easing a trained network into a new objective}},
  author  = {{{{The Segue authors}}}},
  version = {{{version}}},
  license = {{Apache-2.0}},
}}"""


_arguments: list[str] = []  # of this process, for the records


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; a wrong argument ends in one line and exit code 2."""
    try:
        import tyro
    except ImportError:
        sys.exit('the command line needs tyro: pip install "segue[experiments]"')
    from segue.cli_judge import judge, respond
    from segue.cli_pictures import samples, strip

    _arguments[:] = sys.argv[1:] if arguments is None else arguments
    commands: dict[str, Callable[..., Any]] = {
        "demo": demo,
        "run": run,
        "data": data,
        "strip": strip,
        "samples": samples,
        "respond": respond,
        "judge": judge,
        "status": status,
        "report": report,
        "cite": cite,
    }
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands,
            prog="segue",
            description="Ease a trained network into a new objective, and measure whether it helps.",
            args=arguments,
        )
    except (ValueError, OSError) as error:
        print(f"segue: {error}", file=sys.stderr)
        sys.exit(2)
    except ImportError as error:
        print(
            f'segue: {error}; pip install "segue[experiments,report]" installs what the commands '
            "need",
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt:
        print("segue: stopped; the same command resumes", file=sys.stderr)
        sys.exit(130)


def demo(*, out: Path = Path("runs/demo"), num_workers: int | None = None) -> None:
    """Compare smoothing with its baselines on scikit-learn's digits, within two minutes.

    Args:
        out: Folder for runs and report.
        num_workers: Processes; one per core by default.
    """
    from segue.experiments.families import load_preset

    console = _console()
    records = _execute(
        load_preset("supervised", "demo"), "supervised", out, None, None, num_workers, console
    )
    _show(records, out / "report.html", console)


def run(
    family: str,
    /,
    *,
    preset: str = "quick",
    data: str | None = None,
    out: Path = Path("runs"),
    results: Path | None = None,
    num_workers: int | None = None,
    device: str = "cpu",
    dry_run: bool = False,
    retry_failed: bool = False,
) -> None:
    """Execute a preset of an experiment family; what is done is skipped, what was cut off resumes.

    Args:
        family: Experiment family: supervised, vision, language, online_rl
            or offline_to_online.
        preset: Preset of the family; --dry-run lists what it would run. Of supervised: demo, quick,
            short, long, standard, sequence, other-methods, other-methods-long, paper, and ablate-k,
            -schedule, -bank, -optimizer, -norm, -target-examples, -few-examples. Of language: quick,
            standard, other-methods, judged, paper. Of online_rl: quick, changing, ppo, td3, brax,
            standard. Of offline_to_online: quick, standard, verdicts, arms, medium-replay, remedies,
            longer-offline, large. Of vision: quick, standard, verdicts, no-source, batch-norm, paper.
        data: Data folder (else the environment variable SEGUE_DATA), or hub for image data.
        out: Folder for records, checkpoints and source models.
        results: Parquet file of records: those in it are not run again, and it is rewritten with
            all records of the family at the end.
        num_workers: Processes; one per core by default.
        device: Where to train, such as cuda; the processes share it.
        dry_run: Show the phases, the number of runs and their cost, and run nothing.
        retry_failed: Run again what failed.
    """
    from segue.experiments.families import load_preset

    chosen, console = load_preset(family, preset), _console()
    if dry_run:
        _dry_run(chosen, console)
        return
    root = data or os.environ.get("SEGUE_DATA")
    records = _execute(
        chosen,
        family,
        out,
        results,
        root,
        num_workers,
        console,
        retry_failed=retry_failed,
        device=device,
    )
    _show(records, out / f"{family}-{preset}.html", console)


def data(
    out: Path,
    /,
    *,
    data: str | None = None,
    train_policies: int | None = None,
    tasks: tuple[str, ...] = ("hopper", "halfcheetah", "walker2d"),
    qualities: tuple[str, ...] = ("medium", "medium-replay", "medium-expert", "expert"),
    num_transitions: int = 100_000,
    seed: int = 0,
    file_format: Literal["npz", "hdf5", "minari"] = "npz",
) -> None:
    """Generate offline data sets for MuJoCo tasks, from trained policies.

    Args:
        out: Folder for the files; Minari has a folder of its own.
        data: Data folder that holds policies/ (else the environment variable SEGUE_DATA).
        train_policies: Train the policies instead, for so many environment steps a task (300,000 are
            usual), into OUT/policies; those that are there are kept.
        tasks: Tasks.
        qualities: Qualities; how each is made stands in the file.
        num_transitions: Transitions of each data set.
        seed: Draws policies' noise and first states.
        file_format: npz, hdf5 (D4RL's layout) or minari.
    """
    from segue.rl.data.generate import check_names, generate_files

    check_names(tasks, qualities, file_format)
    console = _console()
    root = data or os.environ.get("SEGUE_DATA")
    if train_policies is not None:
        from segue.rl.data.training import train_missing_policies

        if data is not None:
            raise ValueError("--data and --train-policies exclude each other, got both")
        root = str(out)
        for name, score in train_missing_policies(
            tasks, out / "policies", num_env_steps=train_policies, seed=seed
        ):
            console.print(f"trained {name}: return {score:,.0f}", markup=False, highlight=False)
    if root is None:
        raise ValueError(
            "the policies need a data folder: pass --data FOLDER, set SEGUE_DATA, or train some with "
            "--train-policies STEPS"
        )
    for name in generate_files(
        out,
        root,
        tasks=tasks,
        qualities=qualities,
        num_transitions=num_transitions,
        seed=seed,
        file_format=file_format,
    ):
        console.print(f"wrote {name}", markup=False, highlight=False)


def status(*, out: Path = Path("runs")) -> None:
    """Show what is done, failed and cut off in a run folder.

    Args:
        out: The run folder.
    """
    from rich.markup import escape
    from rich.table import Table

    from segue.runs.records import load_records

    console = _console()
    families = sorted(path.parent for path in out.glob("*/records") if path.is_dir())
    if not families:
        raise ValueError(f"out must be a folder that `segue run` wrote, found no records in {out}")
    table = Table("family", "completed", "failed", "cut off")
    failures: list[Record] = []
    for folder in families:
        records = load_records(folder)
        failed = [record for record in records if record.status == "failed"]
        failures += failed
        cut_off = len(list((folder / "checkpoints").glob("*.safetensors")))
        table.add_row(
            escape(folder.name), str(len(records) - len(failed)), str(len(failed)), str(cut_off)
        )
    console.print(table)
    for record in failures:
        reason = record.error or {}
        console.print(
            f"{record.run_id} failed: {reason.get('type')}: {reason.get('message')}",
            markup=False,
            highlight=False,
        )


def report(
    records: tuple[Path, ...] = (),
    /,
    *,
    out: Path = Path("report.html"),
    pictures: Path | None = None,
    docs: bool = False,
    root: Path = Path(),
) -> None:
    """Rebuild tables and the HTML report from records alone.

    Args:
        records: Run folders and Parquet files; every file in results/ if none is named.
        out: The page to write; its figures' data are written next to it.
        pictures: Folder that `segue strip` or `segue samples` wrote; they are shown beside their
            shifts.
        docs: Rewrite the generated blocks of README.md and docs/ instead.
        root: Folder of the project whose docs are rewritten.
    """
    from segue.runs.records import load_records

    paths = list(records) or sorted((root / "results").glob("*.parquet"))
    if not paths:
        raise ValueError(f"records must name a run folder or a Parquet file, found none in {root}")
    console = _console()
    if docs:
        from segue.report.docs import update_docs

        for path in update_docs(root, paths):
            console.print(f"wrote {path}", markup=False, highlight=False)
        return
    _show(load_records(paths), out, console, pictures)


def cite() -> None:
    """Print how to cite Segue and the method."""
    import segue

    print(_BIBTEX.format(version=segue.__version__))


def _console() -> Console:
    from rich.console import Console

    return Console()


def _command(arguments: Sequence[str]) -> str:
    """The command line for the records, without the folders of this machine."""
    words = []
    for word in arguments:
        option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
        if Path(value).expanduser().is_absolute():
            value = f".../{Path(value).name}"
        words.append(f"{option}{equals}{value}")
    return shlex.join(["segue", *words])


def _execute(
    preset: Preset,
    family: str,
    out: Path,
    results: Path | None,
    data: str | None,
    num_workers: int | None,
    console: Console,
    *,
    retry_failed: bool = False,
    device: str = "cpu",
) -> list[Record]:
    """Run the phases in turn; return the records of all of them."""
    from segue.runs.execution import execute
    from segue.runs.grid import expand, run_id
    from segue.runs.records import compact, load_records

    if preset.check_data is not None:
        if data is None:
            raise ValueError(
                "this preset needs a data folder: pass --data FOLDER, or set SEGUE_DATA"
            )
        preset.check_data(data)
    started = time.monotonic()
    records: dict[str, Record] = {}
    try:
        for phase in preset.phases:
            configs = phase.configs(list(records.values()))
            wanted = {run_id(config) for config in expand(configs)}
            num_required = len(wanted) - len({run_id(config) for config in configs})
            console.rule(f"{phase.name}: {len(configs)} runs, from {num_required} source models")
            execute(
                configs,
                out,
                num_workers=num_workers,
                data_root=data,
                results=results,
                console=console,
                command=_command(_arguments),
                retry_failed=retry_failed,
                device=device,
            )
            known = load_records(_existing(results, out / family))
            records.update((r.run_id, r) for r in known if r.run_id in wanted)
    finally:  # what is done by now is kept, also when the rest is stopped
        if results is not None and _existing(out / family):
            compact(load_records(_existing(results, out / family)), results)
    console.print(f"{len(records)} runs in {time.monotonic() - started:.0f} s")
    return list(records.values())


def _existing(*paths: Path | None) -> list[Path]:
    return [path for path in paths if path is not None and path.exists()]


def _dry_run(preset: Preset, console: Console) -> None:
    """Print what would be run, and how long it would take here."""
    from segue.runs.grid import expand, run_id

    console.print(preset.description, markup=False)
    for line in preset.plan() if preset.plan is not None else ():
        console.print(line, markup=False)
    num_cores, hours = os.cpu_count() or 1, 0.0
    known: set[str] = set()
    for phase in preset.phases:
        configs = [c for c in expand(phase.configs([])) if run_id(c) not in known]
        known.update(run_id(config) for config in configs)
        cost = sum(config.cost() for config in configs)
        line = f"{phase.name}: {len(configs)} runs, {cost:,.0f} gradient examples"
        if preset.seconds_per_cost is not None:
            seconds = sum(config.cost() * preset.seconds_per_cost(config) for config in configs)
            hours += seconds / 3600 / num_cores
            line += f", about {seconds / 3600 / num_cores:.1f} h"
        console.print(line)
    if preset.seconds_per_cost is not None:
        console.print(
            f"about {hours:.1f} h in all on {num_cores} cores, measured here with one thread a run; "
            "evaluation comes on top"
        )


def _show(
    records: Sequence[Record], page: Path, console: Console, pictures: Path | None = None
) -> None:
    """Print the tables and write the page."""
    from segue.report.console import console_tables
    from segue.report.page import write_report

    for table in console_tables(records):
        console.print(table)
    written = write_report(records, page, pictures=pictures)
    console.print(f"report: {written}", markup=False, highlight=False)
