#!/usr/bin/env python3
"""Tests of the comparisons with PyTorch and of benches/gpu.sh, without a GPU: benches/peers/tests.py [NAME]

Stand-ins of a few lines take the place of a GPU, hardneg, PyTorch's side and compute-sanitizer. Needs torch for operations.py.
"""
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest
from types import SimpleNamespace
from unittest import mock

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))
try:
    import operations
except ImportError:
    operations = None


class Cuda:
    """What `measured` and `mark_seconds` ask of a GPU. Calls take `call` seconds; `log` holds what was run, `graphs` what was recorded."""

    def __init__(self, call=1e-4):
        self.call, self.now, self.log, self.graphs, self.recording, self.asleep = call, 0.0, [], [], None, False

    def run(self, t):
        self.now += self.call
        (self.log if self.recording is None else self.recording).append(t)

    def api(self):
        outer = self

        class Event:
            at = 0.0

            def __init__(self, enable_timing):
                pass

            def record(self):  # takes the host a while, for which a device without work waits
                outer.now += 0.0 if outer.asleep else 2e-6
                self.at = outer.now

            def query(self):
                return not outer.asleep

            def elapsed_time(self, other):
                return (other.at - self.at) * 1e3

        @contextlib.contextmanager
        def graph(recorded, stream):
            outer.recording = recorded.calls
            yield
            outer.recording = None
            outer.graphs.append(recorded.calls)

        class Graph:
            def __init__(self):
                self.calls = []

            def replay(self):
                outer.now += outer.call * len(self.calls)

        def synchronize():
            outer.asleep = False

        def sleep(cycles):
            outer.asleep = True

        stream = SimpleNamespace(wait_stream=lambda other: None)
        return SimpleNamespace(Event=Event, graph=graph, CUDAGraph=Graph, synchronize=synchronize, current_stream=lambda: stream,
                               stream=lambda s: contextlib.nullcontext(), Stream=lambda: stream, _sleep=sleep)

    @contextlib.contextmanager
    def stands_in(self):
        clock = SimpleNamespace(perf_counter=lambda: self.now, monotonic=lambda: self.now)
        with mock.patch.multiple(operations.torch, cuda=self.api()), mock.patch.multiple(operations, time=clock):
            operations.side_stream.cache_clear()
            yield self
        operations.side_stream.cache_clear()


@unittest.skipIf(operations is None, "operations.py needs torch")
class Operations(unittest.TestCase):
    def measured(self, sets, call):
        with Cuda(call).stands_in() as cuda:
            return operations.measured(cuda.run, sets, "cuda", True, 0.01), cuda

    def test_every_set_has_run_before_it_is_recorded(self):
        sets = list(range(32))
        _, cuda = self.measured(sets, 1e-4)
        self.assertEqual(set(cuda.log), set(sets))
        self.assertEqual(cuda.graphs, [sets])

    def test_graphs_of_short_calls_hold_eight_and_more(self):
        for sets, count in ((2, 8), (3, 9), (9, 9)):
            said, cuda = self.measured(list(range(sets)), 1e-4)
            self.assertEqual(cuda.graphs, [[i % sets for i in range(count)]])
            self.assertAlmostEqual(said["seconds"], 1e-4, delta=1e-6)
        said, cuda = self.measured([0, 1], 1e-2)
        self.assertEqual(cuda.graphs, [[0, 1]])
        self.assertAlmostEqual(said["seconds"], 1e-2, delta=1e-5)

    def test_marks_are_measured_behind_work(self):
        with Cuda().stands_in():
            self.assertEqual(operations.mark_seconds(), 0.0)  # the host's 2e-6 s a mark are hidden
        with Cuda().stands_in():
            with mock.patch.object(operations.torch.cuda, "_sleep", lambda cycles: None):
                self.assertIsNone(operations.mark_seconds())

    def worker(self, *answers):
        """A worker whose process takes the seconds, and gives the answers, of `answers`."""
        clock, left = SimpleNamespace(now=100.0), list(answers)

        def poll(limit):
            clock.now += min(limit, left[0][0])
            return left[0][0] <= limit

        worker = operations.Worker("cuda")

        def start(self):
            self.process = mock.Mock()
            self.pipe = SimpleNamespace(send=lambda task: None, poll=poll, recv=lambda: left.pop(0)[1])

        worker.end = lambda: start(worker)
        start(worker)
        return worker, mock.patch.multiple(operations, time=SimpleNamespace(monotonic=lambda: clock.now)), clock

    def test_both_asks_have_one_limit(self):
        worker, patch, clock = self.worker((50, dict(not_recorded="no")), (50, dict(seconds=1)))
        with patch:
            self.assertEqual(worker.ask(dict(graph=True), 60, 1000)["failed"], "no answer within 60 s")
        self.assertEqual(clock.now, 160)
        worker, patch, clock = self.worker((20, dict(not_recorded="no")), (20, dict(seconds=1)))
        with patch:
            self.assertEqual(worker.ask(dict(graph=True), 60, 1000), dict(seconds=1, not_recorded="no"))

    def test_what_the_time_ends_is_left_out(self):
        for answers in ([(50, {})], [(10, dict(not_recorded="no")), (50, {})]):
            worker, patch, clock = self.worker(*answers)
            with patch:
                self.assertTrue(worker.ask(dict(graph=True), 60, 130)["left_out"])
            self.assertEqual(clock.now, 130)

    def test_rounded_rows_belong_to_the_sampled_loss(self):
        kinds = [dict(call=call, seconds=dict(median=1.0)) for call in ("rows_round", "rows_add", "sampled_loss")]
        groups = operations.grouped(kinds, dict(loss="sampled_loss"))
        self.assertEqual({name: [kind["call"] for kind in group] for name, group in groups.items()},
                         dict(loss=["rows_round", "sampled_loss"], embedding=["rows_add"]))
        self.assertIn("train.rounding=bf16", operations.CONFIGURATIONS["sampled-bf16"])

    def test_compiled_variants_come_last_and_fused_ones_first(self):
        line = dict(rows=8, items=9, negatives=None, sampler=None, step=dict(median=1.0), count=3, kinds=[
            dict(call=call, count=1, bytes=1, at_most=False, flops=0, floor=0.1, seconds=dict(low=1.0, median=1.0, high=1.0))
            for call in ("full_softmax_fwd", "layer_norm_fwd", "attention_fwd", "copy to")])
        model = dict(max_len=4, dim=8, heads=1, layers=1, ffn_mult=1, dropout=0.1, activation="relu", scale_embeddings=True)
        said = dict(lines=[line], settings=dict(model=model, batch_size=2, rounding="f32"))
        asked, lines, answer = [], [], dict(seconds=1.0, low=1.0, high=1.0, repeated=1.0, timed="graph", sets=2, peak_bytes=0)

        def ask(task, limit, ends):
            if task["operation"] == "machine":
                return dict(failed="none")
            asked.append((task["operation"], task["variant"][2]))
            return dict(left_out=True) if task["operation"] == "attention" and task["variant"][2] else answer

        arguments = ["operations.py", "--compile", "--configurations", "softmax"]
        with (mock.patch.object(operations.Worker, "ask", lambda self, *a: ask(*a)), mock.patch.object(sys, "argv", arguments),
              mock.patch.object(operations, "profile", lambda *a: said), mock.patch.object(operations, "STARTED", time.monotonic()),
              mock.patch("builtins.print", lambda text, **_: lines.append(json.loads(text)))):
            self.assertEqual(operations.main(), 0)
        compiled = [operation for operation, mode in asked if mode]
        self.assertEqual(list(dict.fromkeys(compiled)), ["norms_and_passes", "layer_norm", "full_softmax", "attention"])
        self.assertEqual(asked[-len(compiled):], [(operation, "default") for operation in compiled])
        last = {line["operation"]: line["compiled"] for line in lines if "operation" in line}
        self.assertEqual(last, dict(full_softmax=True, layer_norm=True, norms_and_passes=True, attention=False, copies=False))
        self.assertEqual(lines[-1]["failed"], [])
        self.assertEqual({entry.split(",")[0] for entry in lines[-1]["left_out"]}, {"attention: flex"})


HARDNEG = """#!/usr/bin/env python3
import json, os, sys, time
said = sys.argv[1:]
graph = [s.split("=")[1] for s in said if s.startswith("train.graph=")]
if graph == ["yes"] and "graphs" in os.environ["FAULTS"]:
    sys.exit("error G0507: graphs are refused")
if "slow" in os.environ["FAULTS"]:
    time.sleep(60)
run = said[said.index("--out") + 1]
os.makedirs(run, exist_ok=True)
with open(run + "/metrics.jsonl", "w") as out:
    for seconds in (9.0, 0.5, 0.25, 0.75):
        print(json.dumps(dict(kind="epoch", seconds=seconds, rows=7, loss=1.0, sampling_share=0.1)), file=out)
"""
PYTHON = """#!/usr/bin/env python3
import json, sys
if "bad" in sys.argv:
    sys.exit("RuntimeError: bad")
for seconds in (9.0, 1.0, 2.0, 1.0):
    print(json.dumps(dict(seconds=seconds, rows=8 if "other" in sys.argv else 7)))
"""


class Compare(unittest.TestCase):
    def compare(self, *arguments, faults=""):
        with tempfile.TemporaryDirectory() as at:
            for name, text in (("hardneg", HARDNEG), ("python", PYTHON)):
                pathlib.Path(at, name).write_text(text)
                pathlib.Path(at, name).chmod(0o755)
            command = [sys.executable, str(HERE / "compare.py"), "LOG", "--hardneg", f"{at}/hardneg", "--python", f"{at}/python"]
            done = subprocess.run(command + list(arguments), capture_output=True, text=True, env={**os.environ, "FAULTS": faults})
        self.assertEqual(done.stderr, "")
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        return done.returncode, lines[:-1], lines[-1]

    def test_the_median_of_all_epochs_but_the_first_counts(self):
        status, lines, last = self.compare("--rounds", "1", "--variants", "--layout a;--layout b")
        self.assertEqual([line["form"] for line in lines], ["hardneg", "--layout a", "--layout b"])
        self.assertEqual(lines[0]["epochs"], [9.0, 0.5, 0.25, 0.75])
        self.assertEqual((status, last["hardneg_seconds"], last["torch_seconds"], last["rows"]), (0, 0.5, 1.0, 7))
        self.assertEqual(last["ratio_hardneg_to_torch"], 0.5)

    def test_a_form_that_fails_is_named_on_either_side(self):
        graphs = ("--graph", "--device", "cuda", "--rounds", "2")
        status, lines, last = self.compare(*graphs, "--variants", "--layout bad;--layout b", faults="graphs")
        self.assertEqual([line.get("form") or line["failed"] for line in lines],
                         ["hardneg", "hardneg, graphs", "--layout bad", "--layout b", "hardneg", "--layout b"])
        self.assertEqual((status, last["hardneg_form"], last["torch_variant"]), (0, "hardneg", "--layout b"))
        self.assertEqual(last["failed"], {"hardneg, graphs": "error G0507: graphs are refused", "--layout bad": "RuntimeError: bad"})
        status, _, last = self.compare(*graphs, "--variants", "--layout bad")
        self.assertEqual((status, last["hardneg_seconds"], last["torch_variant"]), (1, 0.5, None))
        status, _, last = self.compare("--rounds", "1", "--variants", "--layout a;--layout other")
        self.assertEqual((status, last["rows_of_forms"]), (1, {"hardneg": 7, "--layout a": 7, "--layout other": 8}))

    def test_every_form_has_a_limit(self):
        status, lines, last = self.compare("--rounds", "1", "--limit", "1", "--variants", "--layout a", faults="slow")
        self.assertEqual((status, last["failed"], last["torch_seconds"]), (1, {"hardneg": "no answer within 1 s"}, 1.0))
        status, lines, last = self.compare("--rounds", "1", "--seconds", "6", "--variants", "--layout a", faults="slow")
        self.assertEqual((status, last["failed"], last["left_out"]), (1, {}, ["hardneg, round 1", "--layout a, round 1"]))


PROGRAM = """#!/usr/bin/env python3
import json, os, signal, sys, time
said, faults = sys.argv[1:], os.environ["FAULTS"].split()
if said[0] == "--version" and "deaf" in faults:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)
if said[0] != "train":
    sys.exit(print("{}"))
form = os.path.basename(said[said.index("--out") + 1])
if form in faults:
    sys.exit("error G0507: graphs are refused")
run = said[said.index("--out") + 1]
os.makedirs(run)
losses = [4.0] if form + "-short" in faults else [4.0, float("nan") if form + "-nan" in faults else 3.0]
with open(run + "/metrics.jsonl", "w") as out:
    out.writelines(json.dumps(dict(loss=loss)) + "\\n" for loss in losses)
with open(run + "/manifest.json", "w") as out:
    json.dump(dict(state_hash="of " + form if form + "-bits" in faults else "same", graph=dict(replayed=9)), out)
"""
# Says whether there is torch, notes down what is to be compared, and runs all else.
PEER = """#!/bin/sh
case "$1" in
  -c) exit $TORCH ;;
  benches/peers/*) echo "$@" >>"$ASKED" ;;
  *) exec "$REAL" "$@" ;;
esac
"""
SANITIZER = "#!/bin/sh\nexit $SANITIZER\n"


class Gpu(unittest.TestCase):
    def gpu(self, only, faults="", torch=1, sanitizer=None):
        """Exit status, the line of every part, the log, and the comparisons with PyTorch that were asked for."""
        with tempfile.TemporaryDirectory() as at:
            at = pathlib.Path(at)
            programs = {"program": PROGRAM, "bin/peer": PEER, **({} if sanitizer is None else {"bin/compute-sanitizer": SANITIZER})}
            (at / "bin").mkdir()
            for name, text in programs.items():
                (at / name).write_text(text)
                (at / name).chmod(0o755)
            (at / "data/ml-1m").mkdir(parents=True)
            (at / "data/ml-1m/ml-1m_sas.txt.gz").touch()
            environment = dict(os.environ, HARDNEG="program", PYTHON="bin/peer", ONLY=only, FAULTS=faults, TORCH=str(torch),
                               SANITIZER=str(sanitizer), REAL=sys.executable, ASKED=str(at / "asked"),
                               PATH=f"{at}/bin:{os.environ['PATH']}")
            done = subprocess.run([HERE.parent / "gpu.sh", "out", "data"], cwd=at, env=environment, capture_output=True, text=True)
            if "deaf" not in faults:  # the shell says that it was killed
                self.assertEqual(done.stderr, "")
            lines = [json.loads(line) for line in (at / "out/results.jsonl").read_text().splitlines()]
            asked = (at / "asked").read_text().splitlines() if (at / "asked").exists() else []
            return done.returncode, lines, (at / "out/log.txt").read_text(), asked

    TRAININGS = "train-host train-calls train-graphs train-auto train-tf32 train-bf16 curves"

    def curves(self, faults=""):
        status, lines, log, _ = self.gpu(self.TRAININGS, faults)
        return status, next(line["said"] for line in lines if line["part"] == "curves"), lines, log

    def test_curves_agree(self):
        status, said, lines, log = self.curves()
        self.assertEqual((status, said["failed"], said["intervals"], lines[-1]), (0, {}, 2, {"part": "verdict", "correct": "yes"}))
        self.assertNotIn("== calls/", log)

    def test_a_form_that_fails_hides_no_other(self):
        status, said, lines, log = self.curves("graphs")
        self.assertEqual((status, set(said["worst_relative_difference"])), (1, {"calls", "auto", "tf32", "bf16"}))
        self.assertIn("G0507", said["failed"]["graphs"])
        self.assertIn("G0507", next(line["error"] for line in lines if line["part"] == "train-graphs"))
        for form in ("host", "calls", "auto", "tf32", "bf16"):
            self.assertIn(f"== {form}/metrics.jsonl", log)
            self.assertIn(f"== {form}/manifest.json", log)
        every = ["host", "calls", "graphs", "auto", "tf32", "bf16"]
        for faults, failed in (("tf32-short", ["tf32"]), ("bf16-nan", ["bf16"]), ("host", every)):
            status, said, _, _ = self.curves(faults)
            self.assertEqual((status, list(said["failed"])), (1, failed))
        status, said, _, log = self.curves("auto-bits")
        self.assertEqual((status, said["failed"]), (1, {}))
        self.assertIn("of auto", log)

    def test_a_sanitizer_that_cannot_run_says_nothing(self):
        for sanitizer, verdict, said in ((0, "yes", []), (1, "yes", ["unusable", "unusable"]), (9, "no", [])):
            status, lines, _, _ = self.gpu("memcheck racecheck", sanitizer=sanitizer)
            self.assertEqual(lines[-1]["correct"], verdict)
            self.assertEqual([line["status"] for line in lines if line.get("status") == "unusable"], said)

    def test_a_program_that_hears_no_signal_is_ended(self):
        started = time.monotonic()
        _, lines, _, _ = self.gpu("version", "deaf")
        self.assertEqual(next(line["status"] for line in lines if line["part"] == "version"), 137)
        self.assertLess(time.monotonic() - started, 30)

    def test_speed_is_compared_within_the_time(self):
        _, lines, _, asked = self.gpu("operations compare-sampled compare-softmax", torch=0)
        operations_, sampled, softmax = asked
        self.assertIn("--compile ", operations_)
        self.assertIn("softmax,softmax-bf16,sampled,sampled-bf16", operations_)
        self.assertIn("--loss sampled", sampled)
        self.assertIn("--loss softmax", softmax)
        self.assertIn("--layout packed --precision bf16 --attention flash --sampled dense;--layout packed;", sampled)
        self.assertIn("--layout packed --precision bf16 --attention flash;--layout packed;", softmax)
        self.assertIn("--compile-mode reduce-overhead --compile-loss --sampled dense", sampled)
        for said in asked:
            self.assertLess(float(said.split("--seconds ")[1].split()[0]), 300)
        _, lines, _, asked = self.gpu("operations compare-sampled compare-softmax kernels-softmax-f32", torch=1)
        self.assertEqual(asked, [])
        self.assertIn("kernels-softmax-f32", [line["part"] for line in lines if line.get("status") == 0])


if __name__ == "__main__":
    unittest.main()
