"""Every request by every method, beside baselines; cards and the table for a paper."""
