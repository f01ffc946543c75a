"""The reasoning worker: a model judges escalated content under written policies.

The worker consumes escalations and writes one verdict and one rationale for each. Verdicts are written exactly once,
and content that cannot be judged becomes `undetermined`, never `safe`. The packages, in the order in which a request
travels:

- `app`: the process: policies, an inference backend, the stream engine and the health endpoint.
- `canary`: the process that judges a share of live content with another model, for comparison only.
- `judging`: from an escalation to a verdict.
- `inference`: from a request to the tokens of its completion, with vLLM in the process or on servers.
- `evaluation`: judges labelled texts without Kafka, for the authors of policies.
- `cli`: the commands `safeguard reason`, `safeguard policy test` and `safeguard policy diff`.
- `bench`: measures the worker beside vLLM alone and a plain loop.
- `small`: a tiny model with the same architecture, for machines without a GPU.

## Design decisions

- **Background work is bounded even while capacity is free.** Concurrent work slows live content, so a replay must not
  fill every free slot. While there is live content, and for a moment after it, lower ranks take a bounded share of
  calls and tokens.
- **The engine hands over more calls than the backend serves at once.** It keeps a quarter more in flight. When a
  request finishes, the next one is already waiting at the model.
- **A canary is a process and a group of its own.** A second model in a live worker would share its memory, its calls
  and its commits. The canary reads the same lane and draws items by a hash, and live workers do not know it.
- **A canary's verdicts have a lane of their own.** They stand on the topic of shadows and replays, whose readers choose
  by lane or by replay. Enforcement and the estimates of recall never read that topic.
- **A verdict's id does not contain the model's revision.** Weights may change between a judgement and its repetition
  after a crash. Two ids would then make two live verdicts of one event.
"""
