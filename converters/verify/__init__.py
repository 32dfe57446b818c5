"""Every file beside the module it came from: requests that probe, comparison, report, card."""
