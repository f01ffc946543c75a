"""Enforcement: each verdict leads to its action exactly once, and a webhook's receiver learns of each change.

The enforcement agent follows moderation.verdicts and chooses actions by a file of rules. It writes them to
moderation.actions, and what then stands on the content item to moderation.standing, in one transaction. It posts the
actions that change anything to a webhook, at least once and in order for each content item. Moderators override
verdicts and release held actions by writing to moderation.actions. In reading order:

- `rules`: the file of enforcement rules, from verdicts to actions, and the caps.
- `author_rules`, `known_authors`: what the rules say about authors; the strikes that rules about content look at.
- `intake`: one order for verdicts and moderators' records, on moderation.enforcement.
- `cleared`: cleared texts of the items on which something stands, into the same order.
- `transform`: what follows each input, in order: actions, referrals, strikes, statements, and what then stands.
- `verdict_actions`, `action_decision`: the actions that follow a verdict; the pure decision about each.
- `moderator_actions`: what follows moderators' decisions, their ends, releases, and actions that are sent again.
- `standing`, `state`: what stands on one content item; on those of one partition, restored from moderation.standing.
- `texts`: which text of an item a verdict is about, and what follows where authors edited it.
- `strikes`: strikes against authors, from what stands on their items before and after each input.
- `signing`: signatures of the agent's records on moderation.actions.
- `statements`: why an author's item is restricted; with `statement_rules` of the file, `statement_texts` in each
  language, and `policy_words`, what policies say.
- `dsa`, `dsa_export`: statements as the EU's database takes them.
- `appeals`, `appeal_inputs`: which appeals are opened, who may decide them, when they end.
- `referrals`: what rules refer to authorities, with its text.
- `delivery`: actions to the webhook.
- `moderators`: what moderators look at and release: what stands, what was done, held actions.
- `places`, `decisions`: where an item and its text are; decisions about it and their ends, each written once.
- `bulk`: decisions about many items at once.
- `appeal_outcomes`, `appeal_figures`, `rejudging`: what people see of appeals and decide; the model's advice about one.
- `reviews`, `rejections`: what waits for a moderator; which messages the receiver rejected.
- `repartition`: what stands, after the topics got more partitions.
- `app`, `stages`: the process that runs the agent; the names of its stages and groups.

## Design decisions

- **One topic settles the order of verdicts and decisions.** Two readers of two topics see them in different orders, and
  would end in different states. The intake therefore copies both to moderation.enforcement. One writer for each
  partition follows that topic, so actions, standing records and messages agree by construction.
- **What stands has a compacted topic.** It needs no retention: a decision holds until another one replaces it. Actions
  remain the history, and may expire. The topic is written in the transaction of the action, so neither is ahead of the
  other. A restore depends on the items on which something stands, and on the actions within a cap's window or an hour.
- **Each standing record names the number of partitions.** With another number, verdicts on an item arrive in another
  partition than what stands on it. The agent refuses such records, and a command moves them.
- **Actions are written before they are delivered.** Another engine delivers them, so an unavailable receiver does not
  delay the writing of actions. It needs no state: each action says what is in effect after it.
- **A moderator's decision covers a text, by its hash.** A moderator has read that text and no other. After an edit, the
  verdicts on the new text count, and the action says that the decision ended. With `any_text`, it covers every text.
- **A moderator's request is followed once, by its id.** No reading can prove that a record is not on its way: a killed
  process has sent it, and the broker has not written it yet. The agent therefore remembers the ids of decisions, and
  the next owner reads them from the last hour of moderation.actions. A withdrawal names the decision that it ends, and
  a decision ends once.
- **An undo brings back the decision before, and a withdrawal brings back none.** An undo is about one click. A
  withdrawal leaves the item to its verdicts. What stands holds the last decisions that others replaced.
- **The place of the event orders the texts of an item.** Verdicts come in another order: reasoning takes longer than
  clearing. A verdict on an earlier text is recorded and has no effect.
  Two partitions have no common order. There a judgement counts as newer, and what is cleared lifts nothing.
- **Each verdict names the policies that judge its event.** The others passed it, and no verdict of theirs will follow.
  An edit therefore ends their actions, even where one policy judges every event and nothing is ever cleared.
- **The gate overrules no judgement of the same text.** An item that an audit found is cleared again when it is sent
  again. Only another text ends its action.
- **Of what is cleared, the key alone is read.** Which keys matter, moderation.standing tells. It tells so after the
  verdict, so the stage remembers the places of the last 100,000 cleared verdicts of each partition. A verdict on an
  earlier text that comes later than that acts until the item is judged or cleared again.
- **Partitions divide a cap.** An exact shared count would need coordination between partitions before each action. A
  reversal counts as a change: restoring a thousand removed posts by mistake is as bad as removing them.
- **A statement of reasons follows what is in effect.** Authors are owed reasons for what restricts their item, not for
  each verdict that says the same. What stands therefore names the statement that holds.
- **Statements use no words of a model or a person.** Reasons and rationales may quote content, and others' words. The
  policy's notes were written for authors, and one test searches all statements for what they must not hold.
- **An undetermined verdict reverses nothing.** It says nothing about the content.
- **An appeal is a part of what stands on its item.** What is appealed, who decided before and which outcome came are
  then one state, in one order, and restored together. The agent refuses the outcome of a person who decided before,
  because a command or a page can be passed by. The refused record becomes a dead letter in the transaction of its
  place.
- **An appeal has no words in enforcement.** What an appellant says is on moderation.appeals alone. The agent needs
  none of it, and the model must not take it for instructions.
- **An overturned appeal is a moderator's decision, an upheld one is none.** The decision keeps a later verdict on the
  same text from restoring what was reversed. What is upheld goes on to follow the policy, as after a replay.
- **A referral holds the text.** The event on content.events expires and may be erased, and a hotline needs evidence.
  The topic has a role of its own, and is compacted: retention by time would delete what a court asked to keep.
"""
