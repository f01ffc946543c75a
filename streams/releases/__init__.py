"""Policies in force: how processes follow them, and how operators change them.

Every process that needs policies follows `moderation.policies` and applies each release without a restart. Operators
release, roll back, retire and shadow policies, and each change has an entry in the history. A record that cannot be
read is logged and changes nothing.

- `feed`: the policies in force, as a process follows them.
- `erasures`: the content items that operators erased, followed in the same way.
- `texts`: the texts that verdicts are about, without those of erased items.
- `operator`: operators' changes to policies, and their history.
- `once`: a change that somebody was asked about, made once.
- `people`: names and reasons in the one form that records have.
- `model_notice`: a warning when the small model would judge by a policy that it has not learned.

## Design decisions

- **History has its own topic.** `moderation.policies` is compacted, and compaction removes the versions that were in
  force last month. Each change is written to both topics in one transaction. Only one operator writes at a time,
  because the transactional id fences any other.
"""
