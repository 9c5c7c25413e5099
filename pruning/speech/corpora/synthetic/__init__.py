"""A synthetic speech corpus without download: sentences from a seeded grammar, spoken by many eSpeak NG voices."""
