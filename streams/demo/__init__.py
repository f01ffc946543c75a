"""The whole pipeline on one machine: `safeguard demo`.

The demo starts a broker and the processes that an operator would start. It publishes real texts and shows how each was
answered. It fails when an event goes unanswered. Modules in reading order:

- `run`: starts everything, publishes, follows the answers, stops everything.
- `child_process`: one process of the pipeline with its log.
- `tally`: counts answers, latencies and what is missing; the fault suite uses it too.
- `show`: tables for the terminal.
- `second_act`: a policy becomes lenient, and past content is judged again.
- `choose`: selects the demo's texts from data sets.

## Design decisions

- **The demo runs the real commands.** It starts `safeguard prefilter run` and `safeguard reason run` as child
  processes, exactly as an operator would.
- **The texts are held out from all training.** A demo on training texts would only show what the classifier memorised.
"""
