"""Studies: many trainings with equal budgets, started as `smartfast train` processes, and what their folders say."""
