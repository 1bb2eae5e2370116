/**
 * An image's name with its tag, as engines list it: `debian` is `debian:latest`. A name with a digest stays as it is. Pure.
 */
export function withTag(image: string): string {
  if (image.includes('@')) return image
  return (image.split('/').at(-1) ?? '').includes(':') ? image : `${image}:latest`
}
