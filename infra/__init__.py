"""Infrastructure: brokers for development and tests, container images, manifests, and monitoring.

The code here starts local brokers and checks the health of containers. The other files deploy and monitor the pipeline:

- `brokers`: an embedded broker for demos, and Apache Kafka for tests and benchmarks.
- `health`: the health check of the container images.
- `images/`: Dockerfiles of the bus side and of the GPU side.
- `kubernetes/`: manifests for kustomize.
- `telemetry/`: dashboards, alerts and the runbook.
- `requirements/`: pinned dependencies with hashes, one file for each role.
- `kafka/`: the Maven project that downloads Kafka's jars.

## Design decisions

- **Tests run Apache Kafka from its jars.** They need Java and Maven, but neither containers nor rights. A test can kill
  a node, restart it and read its log.
- **The two images share no heavy dependency.** The bus side never gets vLLM; the GPU side never gets Faust or fastText.
"""
