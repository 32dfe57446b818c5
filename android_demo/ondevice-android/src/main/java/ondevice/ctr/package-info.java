/**
 * Runs native model files ({@code .odm}) of ondevice: open, predict, rank, describe, close.
 *
 * <p>No parameter and no result is {@code null} unless its description says so.
 *
 * <p>An {@link ondevice.ctr.OnDeviceModel} may be used by any number of threads at once. An
 * {@link ondevice.ctr.Inputs} is filled by one thread, and must not change while a request uses it.
 */
package ondevice.ctr;
