"""The CPU time of an event."""

from safeguard_streams.bench.prefilter import Outputs, Usage, _cpu_per_event, _ratio


def test_cpu_counts_for_each_event_and_not_for_each_output():
    assert _cpu_per_event(Usage(0, cpu=1.0, outputs=50_000), Outputs(100_000, 50_000, 0, 4.0)) == 40.0


def test_cpu_of_no_output_is_no_figure():
    assert _cpu_per_event(Usage(0, 0.0, 0), Outputs(1000, 1000, 0, 0.1)) is None
    assert _ratio(None, 3.0) is None
    assert _ratio(3.0, 2.0) == 1.5
