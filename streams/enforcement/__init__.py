"""Enforcement: each verdict leads to its action exactly once, and a webhook's receiver learns of each change.

The enforcement agent follows moderation.verdicts and chooses actions by a file of rules. It writes them to
moderation.actions, and what then stands on the content item to moderation.standing, in one transaction. It posts the
actions that change anything to a webhook, at least once and in order for each content item. Moderators override
verdicts and release held actions by writing to moderation.actions. In reading order:

- `rules`: the file of enforcement rules, from verdicts to actions, and the caps.
- `intake`: one order for verdicts and moderators' records, on moderation.enforcement.
- `state`: what stands on the content items of one partition, restored from moderation.standing.
- `transform`: the action that follows a verdict or a moderator's record.
- `delivery`: actions to the webhook.
- `plain_text`: names and reasons of moderators.
- `moderators`: what moderators do: decide, look at what stands and at held actions, release them.
- `held_texts`: the texts that held actions are about.
- `repartition`: what stands, after the topics got more partitions.
- `app`: the process that runs the agent.

## Design decisions

- **One topic settles the order of verdicts and decisions.** Two readers of two topics see them in different orders, and
  would end in different states. The intake therefore copies both to moderation.enforcement. One writer for each
  partition follows that topic, so actions, standing records and messages agree by construction.
- **What stands has a compacted topic.** It needs no retention: a decision holds until another one replaces it. Actions
  remain the history, and may expire. The topic is written in the transaction of the action, so neither is ahead of the
  other. A restore depends on the items on which something stands, and on the actions within a cap's window.
- **Each standing record names the number of partitions.** With another number, verdicts on an item arrive in another
  partition than what stands on it. The agent refuses such records, and a command moves them.
- **Actions are written before they are delivered.** Another engine delivers them, so an unavailable receiver does not
  delay the writing of actions. It needs no state: each action says what is in effect after it.
- **A moderator's decision covers the item, whatever its text.** The record has the hash of the text that was judged
  last before. A verdict on another text is overridden, too, and the action says so, for reviewers of edits.
- **Partitions divide a cap.** An exact shared count would need coordination between partitions before each action. A
  reversal counts as a change: restoring a thousand removed posts by mistake is as bad as removing them.
- **An undetermined verdict reverses nothing.** It says nothing about the content.
"""
