"""The author ledger: strikes add up to what stands on an author, exactly once, and fall with what caused them.

Enforcement writes strikes to moderation.strikes, in the transaction of the action. The ledger follows them author by
author. It writes what stands to moderation.author-standing, what is to be done to moderation.author-actions, and why to
moderation.statements, in one transaction, and posts the actions to the webhook of the rules. In reading order:

- `ledger`: the pure step from an author's standing and one record to the next standing.
- `statements`: the statements of reasons that follow the actions.
- `state`: the authors of one partition, restored from moderation.author-standing.
- `transform`: the ledger as a transform of the engine.
- `clock`: time passes for authors about whom nobody writes.
- `delivery`: actions about authors to the webhook.
- `posts`: what authors publish, from content.events to moderation.author-posts, where the rules have rates.
- `windows`: the pure count of what an author published lately.
- `rates`: the count as a transform of the engine, from posts to strikes.
- `standings`, `people`: what stands, for people; what they decide, forgive and forget.
- `recount`: changed thresholds, applied to all authors.
- `app`: the process that runs the ledger.

## Design decisions

- **A strike is named by what it is about.** Its id comes from the item, the text and the policy, and the last record
  about it counts. A text that is judged three times gives one strike, and no reversal needs to know how often.
- **A strike stands while its item is restricted for it.** Enforcement compares what stood on the item before and after
  each input. Undone decisions, superseding verdicts, promoted and reverted replays therefore need no case of their own.
- **An edit takes no strike back.** The text was published. A verdict that supersedes the one on that text does.
- **The log holds time, too.** The clock writes a record when a strike expires or leaves a window. What stands is a
  function of the log alone.
- **A strike that is given again keeps its age.** A replay that is promoted and reverted makes no strike younger.
- **Strikes reach the partition of their author in the transaction of the item's partition.** A stage in between would
  copy each record once more and add its own delay.
- **A statement says what the threshold counted.** Strikes carry the version of the policy and the facts about the text,
  so the ledger needs no verdict. A strike that changes neither the restriction nor its threshold has no statement.
- **Idle authors stay in bytes.** A restore reads the newest record of each author and decodes two fields.
- **A rate gives a strike.** Strikes expire, are forgiven and forgotten, and rules about content see them. A second kind
  of fact about authors would need all of that again.
- **The ledger reads events itself.** Floods are often cleared, so rates must see every event. A sketch made by the
  prefilter would cost every deployment on its busiest topic, and only rates need it.
- **Each post is one record in its author's partition.** Items of an author lie in all partitions of content.events. A
  transaction brings a post to its author once, and the next counts it once.
- **A restore counts again.** The state of rates changes with each post, and a record of it for each would cost more
  than the posts. The windows follow from the last posts, and from the strikes which of them are used.
"""
