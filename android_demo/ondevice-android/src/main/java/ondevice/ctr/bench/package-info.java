/**
 * Measures a model on the device as {@code ondevice bench} does, and writes the same report
 * (docs/bench.md), which {@code ondevice bench compare} reads. An app that does not measure loses
 * these classes when it is shrunk.
 *
 * <p>No parameter and no result is {@code null} unless its description says so.
 */
package ondevice.ctr.bench;
