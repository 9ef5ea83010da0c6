#!/usr/bin/env python3
"""Tests of the comparisons with PyTorch and of benches/gpu.sh, without a GPU: benches/peers/tests.py [NAME]

Programs of a few lines stand for hardneg, PyTorch's side and compute-sanitizer. Needs torch for what operations.py does itself.
"""
import contextlib
import pathlib
import sys
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


if __name__ == "__main__":
    unittest.main()
