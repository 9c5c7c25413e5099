"""A speech corpus made without a download: sentences from a seeded grammar, spoken by eSpeak NG in many voices."""
