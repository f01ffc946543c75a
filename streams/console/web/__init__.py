"""The pages of the console, served to people: who may do what, what waits, what a verdict rests on, who did what.

Guarantees:

- Every request passes one guard. It checks the person's roles against the table in `roles`, by the route's permission.
  Templates ask the same table, so that no page shows a button whose request would be refused.
- The console changes nothing by itself. Decisions are records on moderation.actions, written by `enforcement.decisions`
  under a key that the form carries: a request that is sent twice is one decision.
- Texts of people and models reach a page only through a template that escapes them, and no log and no error message.

Design decisions:

- Pages are whole documents, rendered on the server. htmx replaces parts of them; without scripts, everything but the
  live figures works.
- Ids and search words stand in the query of a URL, which is not logged, and never in its path.
"""
