"""What may become champion: the policy, the gate that applies it, promotion and the model that is promoted."""
