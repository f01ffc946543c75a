"""Capacity planning: the partitions, prefilters and GPUs that a load needs.

Prefilters: rate * HEADROOM / rate of one prefilter.

Reasoners: a judgement needs `tokens` completion tokens. A GPU generates `gpu_tokens` tokens a second over `slots`
concurrent judgements, so one judgement takes S = tokens * slots / gpu_tokens seconds. n GPUs give c = n * slots servers
for J = rate * share judgements a second. The model is an M/M/c queue, in which the share of judgements that take longer
than t is

    P(T > t) = e^-mt + C * (e^-(cm-J)t - e^-mt) * m / (m - (cm - J)),   m = 1 / S,   C = Erlang's C formula

(Kleinrock, Queueing Systems I, section 3.5, and its convolution with the service time). The plan takes the smallest n
at which at most 1% of judgements exceed the objective and at most MAX_UTILIZATION of the servers are busy. Above 100
GPUs, n is within 1% of the smallest. Service times are not exactly exponential. The approximation errs on the safe side
for policies whose outputs have similar lengths.
"""

from __future__ import annotations

import math

import msgspec

from safeguard_streams.errors import ConfigurationError

HEADROOM = 1.5  # capacity of prefilters and partitions, relative to the mean rate
MAX_UTILIZATION = 0.8  # of the reasoners' slots, on average
MAX_LATE = 0.01  # share of judgements that may take longer than the objective
PARTITION_RATE = 10_000.0  # events/s that one partition with three replicas handles easily
PARTITION_MULTIPLE = 6  # partitions are a multiple of it, which members of a group share evenly


class Load(msgspec.Struct, frozen=True):
    """rate: events/s. share: judgements per event, above 1 where several policies escalate the same event. tokens:
    completion tokens per judgement. slo: seconds from escalation to verdict, for 99% of judgements.
    """

    rate: float
    share: float
    tokens: float
    slo: float


class MeasuredHost(msgspec.Struct, frozen=True):
    """Results of benchmarks. prefilter_rate: events/s of one process. gpu_tokens: completion tokens/s of one GPU with
    `slots` concurrent judgements.
    """

    prefilter_rate: float
    gpu_tokens: float
    slots: int


class CapacityPlan(msgspec.Struct, frozen=True):
    """partitions: of each topic. prefilters: processes. gpus: one reasoner each. busy: the average share of the
    reasoners' slots in use, 0 to 1. p99: seconds from escalation to verdict, by the formula.
    """

    partitions: int
    prefilters: int
    gpus: int
    busy: float
    p99: float


def plan(load: Load, host: MeasuredHost) -> CapacityPlan:
    """The smallest plan for a load. Raises ConfigurationError when one judgement alone exceeds the objective."""
    prefilters = max(1, math.ceil(load.rate * HEADROOM / host.prefilter_rate))
    judged = load.rate * load.share
    service = load.tokens * host.slots / host.gpu_tokens
    if late(load.slo, judged=0.0, service=service, servers=1) > MAX_LATE:
        raise ConfigurationError(
            f"one judgement takes {service:.1f} s, so more than {MAX_LATE:.0%} of judgements exceed {load.slo:g} s "
            "with any number of GPUs: lower the effort or SAFEGUARD_MAX_IN_FLIGHT, or raise --slo"
        )
    gpus = max(1, math.ceil(judged * service / (MAX_UTILIZATION * host.slots)))
    while late(load.slo, judged, service, gpus * host.slots) > MAX_LATE:
        gpus += max(1, gpus // 100)
    min_partitions = max(prefilters, gpus, math.ceil(load.rate * HEADROOM / PARTITION_RATE))
    servers = gpus * host.slots
    return CapacityPlan(
        partitions=PARTITION_MULTIPLE * math.ceil(min_partitions / PARTITION_MULTIPLE),
        prefilters=prefilters,
        gpus=gpus,
        busy=round(judged * service / servers, 3),
        p99=round(_p99(judged, service, servers), 2),
    )


def erlang_c(judged: float, service: float, servers: int) -> float:
    """Erlang's C formula: the share of judgements that find all servers busy. judged: per second. service: seconds
    each.

    It uses the recursion of the B formula, which does not overflow.
    """
    offered = judged * service
    if offered >= servers:
        return 1.0
    blocked = 1.0
    for number in range(1, servers + 1):
        blocked = offered * blocked / (number + offered * blocked)
    return blocked / (1 - offered / servers * (1 - blocked))


def late(seconds: float, judged: float, service: float, servers: int) -> float:
    """The share of judgements that take longer than `seconds`, waiting included."""
    one = 1 / service
    free = servers * one - judged
    if free <= 0:
        return 1.0
    waiting = erlang_c(judged, service, servers)
    alone = math.exp(-one * seconds)
    if math.isclose(free, one, rel_tol=1e-9):
        return alone + waiting * one * seconds * alone
    return alone + waiting * (math.exp(-free * seconds) - alone) * one / (one - free)


def _p99(judged: float, service: float, servers: int) -> float:
    low, high = 0.0, service
    while late(high, judged, service, servers) > MAX_LATE:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if late(middle, judged, service, servers) > MAX_LATE else (low, middle)
    return high
