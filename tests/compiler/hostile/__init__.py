"""What a stranger may send to do harm: blueprints, each with the answer that it must get."""
