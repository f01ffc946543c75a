"""Operators' tools outside the pipeline: status, diagnosis, access rights, capacity, look-ups, dead letters, erasure.

Nothing here runs in the pipeline's processes; the command line uses it, and dashboards are generated files. The modules
in the order in which a deployment needs them:

- `capacity`: the partitions, prefilters and GPUs that a load needs.
- `acls`: the rights of each role, and the access lists that grant them.
- `dashboards`: Grafana's dashboards and the list of metrics.
- `content`: everything that the topics hold about one content item; with `content_records`, which records are about it,
  and `content_report`, what the report on it holds.
- `cluster`: brokers, topics, groups and lag, read in few requests.
- `log_dirs`: the room on the brokers' disks.
- `health_pages`: what processes on this host say at /health/ready.
- `status`: the state of a deployment on one page.
- `diagnosis`: what commonly goes wrong, and what to do about it; its `checks`, in `host_checks` and `cluster_checks`.
- `tail`: verdicts from the end of their topics.
- `dead_letters`: dead letters with what became of each; discarding.
- `requeueing`: dead letters put back into the topics that they came from.
- `referrals`: referrals to authorities, and their legal holds.
- `erasure`: the erasure of a content item, and what remains of it until retention ends.

## Design decisions

- **Each role gets only the rights that it needs.** Rationales may quote content and show how to evade a policy, so only
  auditors can read them. An operator who erases content can write to their topic without reading it.
- **Kafka can erase single records only in compacted topics.** The model's rationales therefore have a compacted topic,
  keyed by verdict. All other records about a content item expire with the retention of their topic. Until then the list
  of erasures keeps every stage from working on them.
- **A dead letter gives no right to write.** Every role may write dead letters. A retry therefore trusts a table of what
  stages read, and for verdicts and actions only originals that still stand in their topic.
- **Dashboards are generated from the metrics that the code declares.** A test fails when a file is out of date, and
  when a declared metric appears on no dashboard.
"""
