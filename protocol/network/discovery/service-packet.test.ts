import { encode } from 'dns-packet'
import { describe, expect, it } from 'vitest'
import { encodeAdvertisement, parsePacket, SERVICE } from './service-packet.ts'

describe('a multicast DNS packet', () => {
  it('tells what an advertisement says', () => {
    const ad = {
      id: '12D3KooWaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',
      name: 'r1',
      fleet: 'demo',
      port: 4848,
      addresses: ['10.0.0.1'],
    }
    expect(parsePacket(encodeAdvertisement(ad)).services).toEqual([ad])
  })

  // Found by fuzzing: 220 services of one name and a text of 4300 strings cost half a second for 8.7 KB, from anybody.
  it('reads each name once, no more than 16 strings of a text, and 32 services', () => {
    const id = `id=${'1'.repeat(44)}`
    const service = (name: string) => ({ type: 'SRV' as const, name, ttl: 120, data: { port: 1, target: 'x' } })
    const text = (name: string, data: string[]) => ({ type: 'TXT' as const, name, ttl: 120, data })
    const read = (answers: Parameters<typeof encode>[0]['answers']) =>
      parsePacket(encode({ type: 'response', id: 0, flags: 1 << 10, answers })).services
    const name = `x.${SERVICE}`
    expect(read([...Array.from({ length: 100 }, () => service(name)), text(name, [id])])).toHaveLength(1)
    const late = [...Array.from({ length: 16 }, () => ''), id]
    expect(read([service(name), text(name, late)])).toEqual([])
    const many = Array.from({ length: 40 }, (_, at) => `${at}.${SERVICE}`)
    expect(read(many.flatMap((one) => [service(one), text(one, [id])]))).toHaveLength(32)
  })
})
