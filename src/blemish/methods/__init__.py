"""The methods: their contract (`base`), the two papers, the baselines, and all by name (`registry`)."""
