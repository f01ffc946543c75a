"""The names of the agent's stages, which are its consumer groups, too, and what a dead letter of the delivery says."""

STAGE = "enforcement"  # reads the verdicts and moderators' records, and brings them into one order
ACTING = "enforcement-actions"  # follows the one order
DELIVERING = "enforcement-webhook"  # sends actions to the webhook
REJECTED = "the receiver rejected the message"
