"""Exports the records of a topic into a folder: partitioned by day, resumable, each record once.

A run begins where the manifest says that the last one ended. Its records become rows of one file for each day. After
a number of rows the files get their names, and then the manifest names them together with the new positions.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.bus.interface import Partition, Record
from safeguard_streams.contract.limits import MiB
from safeguard_streams.contract.records import now
from safeguard_streams.errors import ConfigurationError, RecordError
from safeguard_streams.exporting import manifest as manifests
from safeguard_streams.exporting.formats import Format, OpenFile, Place, Row, format_of
from safeguard_streams.exporting.kinds import KINDS, Kind, content_id_of
from safeguard_streams.exporting.manifest import ExportedFile, Manifest
from safeguard_streams.releases.erasures import ErasureList
from safeguard_streams.runtime.settings import Settings

ROW_GROUP = 10_000  # rows that are held in memory
ROW_GROUP_BYTES = 32 * MiB  # of their records, of which one may have megabytes
COMMIT = 200_000  # rows between two states of the manifest
OPEN_FILES = 64  # days between two states of the manifest


class Target(msgspec.Struct, frozen=True):
    """What to export, and where. since and until bound the time at which records were written, the latter excluded."""

    kind: str
    folder: Path
    format: str
    since: datetime | None = None
    until: datetime | None = None

    @property
    def path(self) -> Path:
        """The folder of this kind's files."""
        return self.folder / self.kind


class Exported(msgspec.Struct, frozen=True):
    """What a run did. records and files are those that it added; manifest is what the folder holds now."""

    records: int
    files: int
    manifest: Manifest


async def export(settings: Settings, target: Target) -> Exported:
    """Export what the topic holds and the folder does not. Repeat it after a kill, or later for newer records.

    Raises ConfigurationError if the folder holds another export, or one that does not reach back to `since`.
    """
    kind = KINDS[target.kind]
    rows = format_of(target.format, kind.record)
    await kafka.wait_for_broker(settings, timeout=kafka.COMMAND_SECONDS)
    target.path.mkdir(parents=True, exist_ok=True)
    with manifests.locked(target.path):
        before = await _begun(settings, target, settings.prefix + kind.topic)
        manifests.remove_strays(target.path, before)
        erasures = ErasureList()
        await erasures.read(settings)
        begun = now()
        run = _Run(target, kind, rows, before, erasures)
        after = {Partition(before.topic, int(number)): offset for number, offset in before.positions.items()}
        records = kafka.read_all(settings, [kind.topic], since=before.since, until=target.until, after=after)
        async with contextlib.aclosing(records):
            async for record in records:
                run.take(record)
        return run.end(min(begun, target.until or begun))


async def _begun(settings: Settings, target: Target, topic: str) -> Manifest:
    """The manifest to go on from, which is new in an empty folder, with what the topic has lost since.

    Raises ConfigurationError if the folder does not fit what is asked for.
    """
    found = manifests.load(target.path)
    async with kafka.reader(settings, [KINDS[target.kind].topic], from_end=True) as client:
        topic_id = (await kafka.topic_ids_of(client, [topic])).get(topic)
        partitions = list(client.assignment())
        first = {tp.partition: offset for tp, offset in (await client.beginning_offsets(partitions)).items()}
        ends = {tp.partition: await client.position(tp) for tp in partitions}
    if found is None:
        return Manifest(target.kind, topic, target.format, topic_id, target.since)
    _check(target, found, topic)
    positions = {int(number): offset for number, offset in found.positions.items()}
    created_again = None not in (topic_id, found.topic_id) and topic_id != found.topic_id
    if created_again or any(offset > ends.get(number, 0) for number, offset in positions.items()):
        raise ConfigurationError(
            f"{target.path}: {topic} was created again since this export; export into another folder"
        )
    return past_expired(found, first)


def past_expired(found: Manifest, first: Mapping[int, int]) -> Manifest:
    """A manifest that goes on at the first offsets that a topic still has, and counts the others as expired, once."""
    positions = {number: max(offset, first[int(number)]) for number, offset in found.positions.items()}
    lost = sum(positions.values()) - sum(found.positions.values())
    return msgspec.structs.replace(found, positions=positions, expired=found.expired + lost)


def _check(target: Target, found: Manifest, topic: str) -> None:
    """Raise ConfigurationError if an export cannot go on in its folder as asked for."""
    if (found.kind, found.topic) != (target.kind, topic):
        raise ConfigurationError(f"{target.path}: holds {found.topic}; export {topic} into another folder")
    if found.format != target.format:
        raise ConfigurationError(f"{target.path}: holds {found.format} files; export into another folder")
    if target.since is not None and found.since is not None and target.since < found.since:
        raise ConfigurationError(
            f"{target.path}: holds records since {found.since:%Y-%m-%dT%H:%M:%SZ}; for earlier ones, export into "
            "another folder"
        )


class _Run:
    """One run, from the manifest before it to the one after it."""

    def __init__(self, target: Target, kind: Kind, rows: Format, before: Manifest, erasures: ErasureList) -> None:
        self._target, self._kind, self._format, self._erasures = target, kind, rows, erasures
        self._before = self._manifest = before
        self._positions = dict(before.positions)
        self._left_out = Counter(before.left_out)
        self._erased = before.erased
        self._waiting: list[tuple[str, Row]] = []
        self._bytes = 0  # of the waiting rows' records
        self._files: dict[str, _DayFile] = {}
        self._rows = 0

    def take(self, record: Record) -> None:
        """Add a record, or count why it is left out."""
        self._positions[str(record.partition)] = record.offset + 1
        place = Place(record.topic, record.partition, record.offset, _time_of(record))
        try:
            decoded = self._kind.record_of(record.value)
            if self._is_erased(decoded, record):
                self._erased += 1
                return
            self._waiting.append((place.day, self._format.row(place, decoded)))
            self._bytes += len(record.value or b"")
        except RecordError:
            what = "tombstone" if record.value is None else f"no {self._kind.record.__name__}"
            self._left_out[what] += 1
            kafka.watching().leave_out(self._kind.topic, what)
            return
        if len(self._waiting) >= ROW_GROUP or self._bytes >= ROW_GROUP_BYTES:
            self._write()
        if self._rows >= COMMIT or len(self._files) > OPEN_FILES:
            self._commit()

    def end(self, until: datetime) -> Exported:
        """Finish the run. until: the folder holds all records that were written before."""
        self._write()
        known = self._before.until
        self._commit(until if known is None else max(until, known))
        added = self._manifest.files_written - self._before.files_written
        return Exported(self._manifest.records - self._before.records, added, self._manifest)

    def _is_erased(self, decoded: msgspec.Struct, record: Record) -> bool:
        """Whether a record is about an item that was erased after the record or what it says was written."""
        content_id = content_id_of(decoded)
        if content_id is None or self._erasures.erased_at(content_id) is None:
            return False
        written = (record.timestamp, self._kind.written_at(decoded))
        return any(self._erasures.erased(content_id, at) for at in written)

    def _write(self) -> None:
        """Write the waiting rows to the files of their days."""
        by_day: dict[str, list[Row]] = {}
        for day, row in self._waiting:
            by_day.setdefault(day, []).append(row)
        self._waiting, self._bytes = [], 0
        for day, rows in by_day.items():
            if day not in self._files:
                number = self._manifest.files_written + len(self._files)
                self._files[day] = _DayFile(self._target, self._format, day, number)
            self._files[day].write(rows)
            self._rows += len(rows)

    def _commit(self, until: datetime | None = None) -> None:
        """Name the files that were written, and then let the manifest name them."""
        self._write()
        files = [file.finish() for file in self._files.values()]
        self._manifest = msgspec.structs.replace(
            self._manifest,
            positions=dict(self._positions),
            files=(*self._manifest.files, *files),
            files_written=self._manifest.files_written + len(files),
            left_out=dict(self._left_out),
            erased=self._erased,
            until=until or self._manifest.until,
        )
        self._files, self._rows = {}, 0
        manifests.save(self._target.path, self._manifest)


class _DayFile:
    """The file of one day, until it gets its name."""

    def __init__(self, target: Target, rows: Format, day: str, number: int) -> None:
        name = f"records-{number:08}.{target.format}"
        self._folder, self._path = target.path, f"day={day}/{name}"
        self._unfinished = manifests.unfinished(target.path, name)
        self._file: OpenFile = rows.open(self._unfinished)
        self._records = 0

    def write(self, rows: list[Row]) -> None:
        self._file.write(rows)
        self._records += len(rows)

    def finish(self) -> ExportedFile:
        self._file.close()
        final = self._folder / self._path
        final.parent.mkdir(exist_ok=True)
        manifests.put(self._unfinished, final)
        return ExportedFile(self._path, self._records, final.stat().st_size)


def _time_of(record: Record) -> datetime | None:
    """The timestamp of a record, if it can be true."""
    if not kafka.plausible(record.timestamp):
        return None
    return datetime.fromtimestamp(record.timestamp / 1000, UTC)
