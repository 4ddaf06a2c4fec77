"""The ground: the signed label a target wears, what was seen there, and the names all floors speak."""
