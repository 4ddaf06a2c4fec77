"""What an agent does on its host: who it is, whether a task is carried out, and how, and what it keeps of that."""
