"""Enforcement: each verdict leads to its action exactly once, and a webhook's receiver learns of each change.

The enforcement agent follows moderation.verdicts, chooses actions by a file of rules, and writes them to
moderation.actions in the transaction that commits the verdicts. It posts the actions that change anything to a webhook,
at least once and in order for each content item. Moderators override verdicts and release held actions by writing to
the same topic. In reading order:

- `rules`: the file of enforcement rules, from verdicts to actions, and the caps.
- `state`: what stands on the content items of one partition, restored from moderation.actions.
- `transform`: the action that follows a verdict.
- `delivery`: actions to the webhook.
- `moderators`: what moderators do: decide, look at held actions, release them.
- `app`: the process that runs the agent.

## Design decisions

- **The actions on a content item add up to what stands on it.** An agent restores a partition of moderation.actions
  when it takes the partition over, after earlier owners are fenced. Its state is therefore in Kafka, and each partition
  worker is the only agent that writes to its partition. A compacted topic of states would be faster to restore, but it
  would be a second source of truth.
- **Actions are written before they are delivered.** Two engines do this, so an unavailable receiver does not delay the
  writing of actions. Moderators' decisions are actions too and reach the receiver by the same route. Each decision goes
  to the content item's own partition, so the order of the topic is the order of events.
- **Each engine restores its own state.** The engines belong to two consumer groups, and a process may own different
  partitions in each. The enforcer's state includes an action as soon as it is chosen; the delivery's state includes an
  action only once it is committed.
- **Partitions divide a cap.** An exact shared count would need coordination between partitions before each action. A
  reversal counts as a change: restoring a thousand removed posts by mistake is as bad as removing them.
- **An undetermined verdict reverses nothing.** It says nothing about the content.
"""
