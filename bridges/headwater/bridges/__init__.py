"""Law: a bridge tells other systems what the fleet tells people, in their words; nothing comes back into a round."""
