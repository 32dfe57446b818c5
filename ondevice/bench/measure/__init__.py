"""What is measured, and how: the plan, its rounds, and the process that measures one thing."""
