import { describe, expect, it } from 'vitest'
import { linkTowards, OwnLinks } from './own-links.ts'

const LINKS = [
  { name: 'eth0', cidr: '10.0.0.7/8' },
  { name: 'wlan0', cidr: '10.1.2.3/24' },
  { name: 'eth0', cidr: 'fd77::1/64' },
]

describe('the interface towards a host', () => {
  it('is the one whose network it is in, the smallest of several, and another when there is none', () => {
    const hosts = ['10.9.9.9', '10.1.2.9', 'fd77::9', '192.168.1.1', 'fd88::1', '']
    expect(hosts.map((host) => linkTowards(host, LINKS))).toEqual(['eth0', 'wlan0', 'eth0', 'other', 'other', 'other'])
  })

  it('is a radio when Linux or the owner says so, and towards a router when there is nothing else', () => {
    const wired = new OwnLinks()
    const bridged = new OwnLinks(['lo'])
    expect([wired.isRadio('127.0.0.1'), bridged.isRadio('127.0.0.1')]).toEqual([false, true])
    expect([wired.isRadio('203.0.113.9'), wired.isAllRadio]).toEqual([false, false])
  })
})
