"""The pages of the console, for people: who may do what, what waits, what a verdict rests on, who did what.

In reading order:

- `roles`: the table of permissions by role.
- `auth`, `sessions`: how people sign in, and for how long.
- `security`: headers, the log of requests, limits of rates.
- `guard`: the one way to an endpoint. `console`, `app`: what requests share, and the application.
- `pages`: the endpoints, one module for each kind of thing. `claims`: who works on an item of the queue.
- `blind`, `golden_items`, `disguise`, `checks`: who decides before the verdict is shown, and what measures people.
- `upkeep`: what is done every few seconds.
- `checker`, `checking`: the check of a policy's text, in a process of its own. `trials`: the same text before a model.
- `policy_drafts`: what somebody writes and has not released.
- `policy_changes`, `policy_files`, `checkout`: what a release would change, the files of a policy, and git.
- `figures`, `judgements`, `item_facts`, `author_facts`, `policy_text`, `harms`: what the database knows, as pages need
  it.
- `keyset`: long lists, page by page.
- `flips`: the worklist of a replay's flips. `replay_work`, `replay_steps`: what outlasts a request, and what it does.
- `rendering`: templates, and how texts from outside appear in them. `writing`: the audit log.
- `serve`: the process.

## Design decisions

- **One table decides who may do what.** The guard reads it by the route's permission, and templates read it by the
  route's name. No page shows a button whose request would be refused, and a test tries each role against each route.
- **The pages change nothing by themselves.** A decision is a record that `enforcement.decisions` writes under a key of
  the form. A request that is sent twice is one decision, and the database learns of it from the topic.
- **Pages are whole documents, rendered on the server.** htmx replaces parts of them, and nothing is built. Without
  scripts, everything but the live figures works.
- **Ids and search words stand in the query of a URL.** Logs name the path alone. A path is never made of an id, which
  may hold any characters.
- **A claim is a lease on all rows of an item.** PostgreSQL skips locked rows, and SQLite has one writer: nobody waits,
  and nobody gets an item that another person holds. A lease that ran out needs nobody who returns it.
- **Work that outlasts a request is a row with a key and a lease.** Estimates, replays, comparisons and promotions begin
  once for each key, and a process that is killed loses its lease to another. Each step may begin once more: what it
  writes is found by the next, and never repeated.
- **A promotion writes the plan that was shown.** The plan's row holds the ids of its verdicts. Writing reads the topics
  again, and keeps of them what the plan named.
- **Flips are answered in a random order.** Those answered so far are a sample of all, whose share has an interval.
- **A golden item is a row of the queue.** Whatever reads the queue reads it as any other, and no page has to hide it.
  An item that is decided blind is drawn for all people by a secret, and the same statements read its page whatever it
  is. What is decided about a golden item is a label, never a record.
- **A day's limit of a harm holds where the text is revealed.** The count and its limit are compared in the transaction
  that counts. The queue and the pages say it earlier.
- **A policy is changed on the topic first, and in git second.** The topic decides what content is judged by, and finds
  a request that was sent before. A commit that fails can be repeated: it writes what is in force, and nothing else.
- **A text that is being written is checked in a process that can be ended.** Tokens of one long word take minutes, and
  hold up every thread.
- **A draft is replaced by what its page sent last.** Its changes have numbers, so that a late request changes nothing.
  A window that was loaded before another one wrote is refused instead of being merged.
- **A test of a golden set lives as long as its request.** No process has to know the tests of another, and nobody pays
  for one whose page was closed.
- **An author is shown by records, never by texts.** The page names items, and each item's page has its veil. It leaves
  out what somebody is to decide blind, since the model decides without the author.
- **Texts from outside are made visible, then escaped.** Control characters and marks of direction appear as signs, so
  that reviewers see a trick instead of its effect.
"""
