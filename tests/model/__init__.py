"""The queue's protocol (csrc/PROTOCOL.md) as a state machine, and an explorer that visits every state of it."""
