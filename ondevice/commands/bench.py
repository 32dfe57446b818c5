"""`ondevice bench`: measure model files, show reports, compare them."""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

from ondevice.atomic import atomic_path
from ondevice.bench.measure.constants import (
    DEFAULT_GAPS_MS,
    DEFAULT_PROCESSES,
    DEFAULT_ROWS,
    DEFAULT_SECONDS,
)
from ondevice.bench.measure.plan import Plan
from ondevice.bench.measure.rounds import Machine, run_plan
from ondevice.bench.report import Report, checked_json, read_report
from ondevice.bench.show.compare import compare
from ondevice.bench.show.gate import gate, parse_limit
from ondevice.bench.show.tables import csv_text, markdown
from ondevice.bench.targets import adb
from ondevice.bench.targets.local import LocalMachine
from ondevice.bench.targets.ssh import SshTarget, connect, parse_target
from ondevice.codecs import DENSE_ARITHMETICS
from ondevice.commands.json_output import add_json_option, write_json
from ondevice.engines import ENGINES
from ondevice.errors import InputError, MissingDependencyError
from ondevice.printable import printable

LOOPBACK = "127.0.0.1"

EPILOG = """examples:
  ondevice bench model.odm model.onnx model.tflite --html report.html
  ondevice bench model.odm --batch 1 100 --rank 100 --context user hour --profile
  ondevice bench model.odm --workers 1 2 4 --seconds 5 --json result.json
  ondevice bench model.odm --target ssh://pi@raspberrypi.local --json pi.json
  ondevice bench model.odm --target adb --runner build/runners --json phone.json
  ondevice bench --serve model.odm --host 0.0.0.0 --reports phones
  ondevice bench pi.json phone.json --html both.html
  ondevice bench compare before.json after.json
  ondevice bench model.odm --baseline base.json --max-regression 5%

Every measurement runs in fresh processes (--processes), which take turns with those of the other
measurements. Times are whole calls of Model.predict or Model.rank in Python; memory is what the
process grew by, the runtime's library included. Measure on an idle machine.
docs/bench.md says what each figure means."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        *("model",),
        nargs="+",
        help=".odm, .onnx or .tflite files to measure; or .json reports to show; "
        "or the word compare and two reports",
    )
    _add_requests(parser.add_argument_group("what to measure"))
    _add_engines(parser.add_argument_group("with what"))
    _add_amounts(parser.add_argument_group("how much"))
    _add_target(parser.add_argument_group("where to measure (default: this machine)"))
    _add_serve(parser.add_argument_group("in browsers"))
    out = parser.add_argument_group("output")
    add_json_option(out, "the report")
    for name in ("csv", "markdown", "html"):
        out.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"write {name} to FILE")
    _add_gate(parser.add_argument_group("regression gate"))


def _add_requests(group: argparse._ArgumentGroup) -> None:
    """Add the options that say which requests are sent."""
    group.add_argument(
        "--batch",
        type=int,
        nargs="+",
        default=None,
        metavar="ROWS",
        help=f"batch sizes of predict (default: {_words(DEFAULT_ROWS)})",
    )
    group.add_argument(
        "--rank",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="also rank N candidates for one context",
    )
    group.add_argument(
        "--context",
        nargs="+",
        default=[],
        metavar="INPUT",
        help="inputs that are the context of --rank (default: the first)",
    )
    group.add_argument(
        "--gap-ms",
        type=float,
        nargs="+",
        default=DEFAULT_GAPS_MS,
        metavar="MS",
        help="requests every so many milliseconds, as an app sends them; "
        f"0: back to back (default: {_words(DEFAULT_GAPS_MS)})",
    )
    group.add_argument(
        "--profile", action="store_true", help="also time every operator (native engine)"
    )


def _add_engines(group: argparse._ArgumentGroup) -> None:
    """Add the options that say what runs the requests."""
    group.add_argument(
        "--engine",
        nargs="+",
        default=["auto"],
        choices=("auto", *ENGINES),
        help="engines to use (default: auto)",
    )
    group.add_argument(
        "--threads",
        type=int,
        nargs="+",
        default=[1],
        help="threads for one request; native shares 256 rows and more (default: 1)",
    )
    group.add_argument(
        "--dense",
        choices=DENSE_ARITHMETICS,
        help="compute dense layers of .odm files in bfloat16 (docs/native.md)",
    )
    group.add_argument(
        "--lock",
        action="store_true",
        help="lock native files in memory, in huge pages where the system has them",
    )
    group.add_argument(
        "--workers",
        type=int,
        nargs="+",
        default=[1],
        metavar="N",
        help="requests at once, each in a session of its own (default: 1)",
    )
    group.add_argument(
        "--worker-kind",
        choices=("process", "thread"),
        default="process",
        help="what the workers are (default: process)",
    )
    group.add_argument(
        "--accuracy",
        nargs="+",
        default=[],
        metavar="FILE:NAME=VALUE",
        help="a figure to show beside a model, such as model.odm:AUC=0.767",
    )


def _add_amounts(group: argparse._ArgumentGroup) -> None:
    """Add the options that say how long and how often."""
    group.add_argument(
        "--seconds",
        type=float,
        default=DEFAULT_SECONDS,
        help="time for each kind of request after warm-up, three times that with "
        f"pauses (default: {DEFAULT_SECONDS:g})",
    )
    group.add_argument(
        "--requests",
        type=int,
        default=0,
        metavar="N",
        help="measure N requests of each kind instead",
    )
    group.add_argument(
        "--processes",
        type=int,
        default=DEFAULT_PROCESSES,
        metavar="N",
        help=f"fresh processes for every measurement (default: {DEFAULT_PROCESSES})",
    )


def _add_target(group: argparse._ArgumentGroup) -> None:
    """Add the options that say which device measures, and how to reach it."""
    group.add_argument(
        "--target",
        metavar="TARGET",
        help="ssh://[USER@]HOST[:PORT]: a board, whose Python needs numpy; "
        "adb or adb:SERIAL: an Android device",
    )
    group.add_argument(
        "--python", default="python3", metavar="PATH", help="the board's Python (default: python3)"
    )
    group.add_argument(
        "--wheel",
        type=Path,
        metavar="FILE",
        help="a wheel of ondevice built for the board (default: the runtime installed here, whose "
        "compiled engine runs on boards like this machine)",
    )
    group.add_argument(
        "--runner",
        type=Path,
        metavar="PATH",
        help="for adb: the runner, or the folder that `make runners` fills",
    )
    group.add_argument(
        "--ssh-config", type=Path, metavar="FILE", help="ssh settings instead of your own"
    )
    group.add_argument("--keep-remote", action="store_true", help="leave the shipped files there")


def _add_serve(group: argparse._ArgumentGroup) -> None:
    """Add the options of the live page."""
    group.add_argument(
        "--serve",
        action="store_true",
        help="serve a page that runs the .odm file in a browser, and collect the reports it sends; "
        "or such a page itself, as .html",
    )
    group.add_argument(
        "--host",
        default=LOOPBACK,
        metavar="ADDRESS",
        help=f"address to listen on; 0.0.0.0 opens it to phones (default: {LOOPBACK})",
    )
    group.add_argument(
        "--port", type=int, default=0, help="port to listen on (default: any that is free)"
    )
    group.add_argument(
        "--reports",
        type=Path,
        default=Path("bench-reports"),
        metavar="FOLDER",
        help="folder for the reports (default: bench-reports)",
    )


def _add_gate(group: argparse._ArgumentGroup) -> None:
    """Add the options that compare with a baseline."""
    group.add_argument(
        "--baseline",
        type=Path,
        metavar="FILE",
        help="a report to compare with; exit with 1 if anything is worse",
    )
    group.add_argument(
        "--max-regression",
        default="5%",
        metavar="SHARE",
        help="how much worse is allowed (default: 5%%)",
    )


def _words(values: Sequence[float]) -> str:
    """Numbers as they are typed on a command line: "0 100"."""
    return " ".join(f"{value:g}" for value in values)


def run(args: argparse.Namespace) -> int:
    """Measure, show or compare."""
    if args.serve:
        return _serve(args)
    if args.model[0] == "compare" and not Path("compare").exists():
        return _compare(args)
    paths = [Path(name) for name in args.model]
    limit = parse_limit(args.max_regression)
    baseline = None if args.baseline is None else read_report(args.baseline)
    if all(path.suffix.lower() == ".json" for path in paths):
        reports = [read_report(path) for path in paths]
    else:
        plan = _plan(args, paths)
        with _machine(args, paths) as machine:
            reports = [run_plan(plan, machine, _progress())]
    for number, report in enumerate(reports):
        print("\n" * bool(number) + printable(str(report)))  # noqa: T201
    _write(args, reports)
    if reports[0].interrupted and paths[0].suffix.lower() != ".json":
        print("ondevice: interrupted; above is what was measured", file=sys.stderr)  # noqa: T201
        return 130
    if baseline is None:
        return 0
    result = gate(reports[0], baseline, limit)
    print(printable(f"\nagainst {args.baseline} (a: baseline, b: now)\n\n{result.text()}"))  # noqa: T201
    return 1 if result.worse else 0


def _serve(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C."""
    others = [name for name in ("target", "baseline", "json", "csv", "markdown", "html")
              if getattr(args, name) is not None]  # fmt: skip
    if others or len(args.model) != 1:
        what = f"--{others[0]}" if others else f"{len(args.model)} files"
        raise InputError(
            f"--serve takes one .odm file or page, and its reports go to --reports; got {what}"
        )
    from ondevice.bench.serve import serving

    page = _live_page(Path(args.model[0]))

    def say(line: str) -> None:
        print(printable(line), flush=True)  # noqa: T201

    with serving(page, args.host, args.port, args.reports, say) as server:
        say(f"open  {server.url}")
        if server.reaches_others:
            say("Who has this address sees the model and may send reports, until this run ends.")
            say("The connection is not encrypted: use it in networks that you trust.")
        else:
            say("Only this machine reaches it; --host 0.0.0.0 opens it to phones of the network.")
        say(f"Reports go to {args.reports}; Ctrl-C ends.")
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
    say(f"{server.reports} reports came; `ondevice bench {args.reports}/*.json` shows them")
    return 0


def _live_page(path: Path) -> str:
    """The page to serve. Raises FileFormatError, MissingDependencyError."""
    pages = metadata.entry_points(group="ondevice.pages", name="live")
    if not pages:
        raise MissingDependencyError("the live page is not part of this installation")
    page: str = next(iter(pages)).load()(path)
    return page


def _compare(args: argparse.Namespace) -> int:
    if len(args.model) != 3:
        raise InputError("compare needs two reports: ondevice bench compare a.json b.json")
    reports = [read_report(Path(name)) for name in args.model[1:]]
    result = compare(*reports)
    print(printable(f"a: {args.model[1]}\nb: {args.model[2]}\n\n{result.text()}"))  # noqa: T201
    if args.json is not None:
        write_json(result.to_json(), args.json)
    _write_html(args, reports)
    return 0


def _plan(args: argparse.Namespace, paths: Sequence[Path]) -> Plan:
    batch = args.batch if args.batch is not None else (() if args.rank else DEFAULT_ROWS)
    return Plan(
        models=tuple(paths),
        engines=tuple(args.engine),
        rows=tuple(batch),
        rank=tuple(args.rank),
        context=tuple(args.context),
        gaps_ms=tuple(args.gap_ms),
        threads=tuple(args.threads),
        workers=tuple(args.workers),
        worker_kind=args.worker_kind,
        seconds=args.seconds,
        requests=args.requests,
        processes=args.processes,
        profile=args.profile,
        dense=args.dense,
        lock=args.lock,
        accuracy=_accuracy(args.accuracy),
    )


def _accuracy(words: Sequence[str]) -> dict[str, dict[str, float]]:
    figures: dict[str, dict[str, float]] = {}
    for word in words:
        file, _, figure = word.rpartition(":")
        name, _, value = figure.partition("=")
        try:
            figures.setdefault(file, {})[name] = float(value)
        except ValueError:
            file = ""
        if not file or not name:
            raise InputError(f"expected an accuracy such as model.odm:AUC=0.767, got {word!r}")
    return figures


@contextlib.contextmanager
def _machine(args: argparse.Namespace, models: Sequence[Path]) -> Iterator[Machine]:
    """Where to measure: this machine, or the board that --target names."""
    if args.target is None:
        yield LocalMachine()
        return
    if args.target.startswith("adb"):
        serial = adb.parse_target(args.target)
        if args.runner is None:
            raise InputError(
                "adb needs --runner, such as build/runners, which `make runners` fills"
            )
        with adb.connect(adb.AdbTarget(serial, args.runner, args.keep_remote), models) as phone:
            _say_kept(args, phone.folder)
            yield phone
        return
    host, user, port = parse_target(args.target)
    target = SshTarget(host, user, port, args.python, args.ssh_config, args.wheel, args.keep_remote)
    with connect(target, models) as machine:
        if not machine.compiled:
            print(  # noqa: T201
                "ondevice: the compiled engine does not run on this board, so numpy is measured; "
                "build a wheel there (pip wheel .) and give it with --wheel",
                file=sys.stderr,
            )
        _say_kept(args, str(Path(machine.folder).parent))
        yield machine


def _say_kept(args: argparse.Namespace, folder: str) -> None:
    if args.keep_remote:
        print(f"ondevice: the files stay in {folder} on the device", file=sys.stderr)  # noqa: T201


def _progress() -> Callable[[int, int, str], None]:
    """A line on stderr that says what is being measured; nothing when that is not a terminal."""
    if not sys.stderr.isatty():
        return lambda done, total, what: None

    def show(done: int, total: int, what: str) -> None:
        line = f"[{done}/{total}] {what}" if what else ""
        sys.stderr.write(f"\r\x1b[K{line[:100]}")
        sys.stderr.flush()

    return show


def _write(args: argparse.Namespace, reports: Sequence[Report]) -> None:
    """Write the files that were asked for."""
    single = [name for name in ("json", "csv", "markdown") if getattr(args, name) is not None]
    if len(reports) > 1 and single:
        raise InputError(f"--{single[0]} writes one report, but {len(reports)} are given")
    if args.json is not None:
        write_json(checked_json(reports[0], str(args.json)), args.json)
    if args.csv is not None:
        _write_text(args.csv, csv_text(reports[0]))
    if args.markdown is not None:
        _write_text(args.markdown, markdown(reports[0]))
    _write_html(args, reports)


def _write_html(args: argparse.Namespace, reports: Sequence[Report]) -> None:
    if args.html is not None:
        from ondevice.bench.show.page import page

        _write_text(args.html, page(reports))


def _write_text(path: Path, content: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(content, encoding="utf-8")
