/** Keys of requests that may be sent again: the station takes the same one once. */

/** A new key, of 128 random bits; it also works on a page that came without TLS. */
export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
