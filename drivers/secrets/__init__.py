"""Secret values, resolved from their references at the moment of use and known to the redactor from then on."""
