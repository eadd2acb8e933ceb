"""Our side of a queue, in this process: a faster Connection, elastic queues, draining."""
