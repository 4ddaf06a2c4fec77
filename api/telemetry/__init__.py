"""What Holdfast tells of itself to machines: metrics that are scraped, and traces that are sent."""
