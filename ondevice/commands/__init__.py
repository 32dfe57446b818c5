"""The commands of the runtime: each module has EPILOG, configure(parser) and run(args)."""
