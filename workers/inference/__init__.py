"""Inference: a request goes to the model, and the tokens of its completion come back.

Judging sees only the protocol `InferenceBackend`. A backend raises `InferenceError` when one request failed, and
`DependencyError` when the model is gone, which ends the worker. The modules, in reading order:

- `interface`: `InferenceBackend`, `InferenceRequest` and `Completion`.
- `harmony`: the model's format in token ids.
- `dialects`: the formats of other judges.
- `preflight`: what must be present before a model is loaded.
- `revision`: which weights a model has, beside its name.
- `vllm`, `vllm_arguments`: vLLM in this process, and how it is set up for a device.
- `vllm_decisions`: what its engine notes for scores. It runs in the engine's process.
- `vllm_stats`, `stall`: its metrics, and whether it still takes steps.
- `remote`: one or several inference servers, and the attempts that a request has.
- `discovery`: the addresses of servers, also those that DNS has for a name.
- `places`, `limit`: which request goes to which server next, and how many a server gets at once.
- `server`: one server: its model, its route, its health, and requests to it.
- `transport`: one HTTP request, and what its failure means.
- `routes`: the two ways to ask a server, in token ids or by chat.
- `labels`: the way to ask one whose model answers by a label.
- `direct`: one server asked at once, for checks.
- `script`, `scripted`: a server that answers by a list of words, for tests and trials.

## Design decisions

- **Prompts are token ids, and this project parses the outputs.** A chat route would write today's date into the prompt
  and repair malformed output. The policy's part of the prompt is equal for all content items, so the prefix cache
  holds it.
- **Content cannot become markup.** The user message is encoded without special tokens, so text that looks like markup
  stays text. For chat servers, which encode it themselves, spaces break up what looks like a control token.
- **A chat server's answer is put back into the harmony format.** There is one parser, and it is equally strict for
  every server. It rejects what a server's own parser would accept: missing reasoning, a tool call, an answer that was
  cut off.
- **A server's failure is not the request's failure.** A request moves to another server, or waits, when a server is
  unreachable or overloaded. Only failures that the request may have caused count as attempts, and only the first one
  may be at a server that has not answered a test request since. Otherwise an outage would turn content into
  undetermined verdicts, or a request that ends the engine would end every engine.
- **A hung engine ends the worker.** vLLM reports a dead engine, and nothing reports a hung one. Therefore the worker
  counts the engine's steps. While none is taken, content's time does not run: the items are judged again elsewhere, and
  none becomes undetermined.
- **On a CPU, scores come from two logits that the engine notes while it writes the answer.** vLLM's log-probabilities
  take a CPU about as long as the model itself, and a request of its own for the score takes another request's place.
  On a GPU both are cheap.
- **What a server can do is found by asking it.** A router names itself as the servers behind it do, or differently. A
  test request shows which route works, and whether the server works again.
- **The number of requests at once is learned from throughput.** Latency rises with each request in a batch long before
  a GPU is full, and depends on the length of answers. Tokens a second show what one more request brings.
- **What is missing is reported before a model is loaded.** Loading takes long, so an error afterwards would come late.
  The checks name the setting or the command that helps.
"""
