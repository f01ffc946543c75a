"""All that runs on the bus: records, topics, the engine, the prefilter, replay, enforcement, the command line."""
