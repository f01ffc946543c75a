"""The whole pipeline on one machine: `safeguard demo`.

The demo starts a broker and the processes that an operator would start. It publishes texts that people had labelled,
kills two processes at work, and shows how each text was answered. It fails when an event goes unanswered. Modules in
reading order:

- `run`: the acts in their order.
- `broker`: Apache Kafka where it can run, else the embedded broker.
- `pipeline`, `child_process`: the processes of the pipeline with their logs; the console, for `--keep`.
- `faults`: kills a prefilter and a reasoner, and restarts them.
- `tally`: counts answers, latencies and what is missing; the fault suite uses it too.
- `labels`: what was found of what people had labelled, and what was flagged wrongly.
- `enforced`: what enforcement did about the verdicts.
- `examples`: five texts from gate to action.
- `second_act`: a policy becomes lenient, and past content is judged again.
- `show`: text and tables for the terminal.
- `choose`: selects the demo's texts from data sets.

## Design decisions

- **The demo runs the real commands.** It starts `safeguard prefilter run`, `safeguard reason run` and `safeguard
  enforce run` as child processes, exactly as an operator would.
- **The texts are held out from all training.** A demo on training texts would only show what the classifier memorised.
- **Faults are part of it.** Anyone can claim exactly once. The demo kills processes with SIGKILL and counts. It says
  what the count proves on the broker in use.
"""
