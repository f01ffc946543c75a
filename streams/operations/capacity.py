"""How many partitions, prefilters and GPUs a load needs.

Prefilters: rate / (rate of one / head room). Reasoners: a judgement needs `tokens` of completion; a GPU writes so many a second, over
`slots` judgements at once, so one takes S = tokens * slots / tokens per second. With n GPUs there are c = n * slots servers for
J = rate * share judgements a second, an M/M/c queue: the share of judgements that take longer than t is

    P(T > t) = e^-mt + C * (e^-(cm-J)t - e^-mt) * m / (m - (cm - J)),   m = 1 / S,   C = Erlang's second formula

(Kleinrock, Queueing Systems I, section 3.5, and its convolution with the service time). The least n is taken at which no more
than 1 % exceed the objective and at most BUSY of the servers are taken; beyond a hundred, to one in a hundred. Judgements do not
take exponential times exactly; the approximation errs to the safe side for policies whose answers are of similar length.
"""

from __future__ import annotations

import math

import msgspec

from safeguard_streams.errors import ConfigurationError

HEAD_ROOM = 1.5  # what a prefilter, or a partition, must bear beyond the mean
BUSY = 0.8  # most of the reasoner's places that are taken on the mean
MISSED = 0.01  # share of judgements that may take longer than the objective
PARTITION_RATE = 10_000.0  # events/s that one partition bears with ease, with three replicas
GRAIN = 6  # partitions are a multiple of it, so that members share them evenly


class Load(msgspec.Struct, frozen=True):
    """rate: events/s. share: judgements for each event, 0 to 1 and beyond, where several policies want it. tokens: of
    completion for each. slo: s from the escalation to the verdict, for 99 of 100.
    """

    rate: float
    share: float
    tokens: float
    slo: float


class Host(msgspec.Struct, frozen=True):
    """What was measured. prefilter_rate: events/s of one process. gpu_tokens: of completion, a second, of one GPU with `slots`
    judgements at once.
    """

    prefilter_rate: float
    gpu_tokens: float
    slots: int


class Plan(msgspec.Struct, frozen=True):
    """partitions of each topic; processes; GPUs, one reasoner each; busy: the share of their places taken on the mean; p99: s
    from the escalation to the verdict, as the formula has it.
    """

    partitions: int
    prefilters: int
    gpus: int
    busy: float
    p99: float


def plan(load: Load, host: Host) -> Plan:
    """Raises ConfigurationError when one judgement alone takes longer than the objective."""
    prefilters = max(1, math.ceil(load.rate * HEAD_ROOM / host.prefilter_rate))
    judged = load.rate * load.share
    service = load.tokens * host.slots / host.gpu_tokens
    if late(load.slo, judged=0.0, service=service, servers=1) > MISSED:
        raise ConfigurationError(
            f"one judgement takes {service:.1f} s, and more than {MISSED:.0%} of them longer than {load.slo:g} s whatever the number of "
            "GPUs: lower the effort or the places (SAFEGUARD_MAX_IN_FLIGHT), or allow more time"
        )
    gpus = max(1, math.ceil(judged * service / (BUSY * host.slots)))
    while late(load.slo, judged, service, gpus * host.slots) > MISSED:
        gpus += max(1, gpus // 100)
    most = max(prefilters, gpus, math.ceil(load.rate * HEAD_ROOM / PARTITION_RATE))
    partitions = GRAIN * math.ceil(most / GRAIN)
    servers = gpus * host.slots
    return Plan(
        partitions, prefilters, gpus, round(judged * service / servers, 3), round(_p99(judged, service, servers), 2)
    )


def waits(judged: float, service: float, servers: int) -> float:
    """Erlang's second formula: the share of judgements that find all servers taken. By the recursion for the first, which does
    not overflow.
    """
    offered = judged * service
    if offered >= servers:
        return 1.0
    blocked = 1.0
    for number in range(1, servers + 1):
        blocked = offered * blocked / (number + offered * blocked)
    return blocked / (1 - offered / servers * (1 - blocked))


def late(seconds: float, judged: float, service: float, servers: int) -> float:
    """The share of judgements that take longer, waiting included."""
    one = 1 / service
    free = servers * one - judged
    if free <= 0:
        return 1.0
    waiting = waits(judged, service, servers)
    alone = math.exp(-one * seconds)
    if math.isclose(free, one, rel_tol=1e-9):
        return alone + waiting * one * seconds * alone
    return alone + waiting * (math.exp(-free * seconds) - alone) * one / (one - free)


def _p99(judged: float, service: float, servers: int) -> float:
    low, high = 0.0, service
    while late(high, judged, service, servers) > MISSED:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if late(middle, judged, service, servers) > MISSED else (low, middle)
    return high
