"""Who may do what: people and machines, their grants, and the one question that every door asks."""
