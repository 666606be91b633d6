// The part of Porter's work that the jobs of rooms ask for, in ws: whatever a member of a room sends goes to all others in it, as it
// is. A room's name is the first part of the path.
'use strict'
const { WebSocketServer } = require('ws')

const rooms = new Map() // name -> Set of members
const server = new WebSocketServer({ host: '127.0.0.1', port: 0, perMessageDeflate: false })

server.on('connection', (member, request) => {
  const name = request.url.split('/')[1]
  if (!rooms.has(name)) rooms.set(name, new Set())
  const members = rooms.get(name)
  members.add(member)
  member.on('message', (data, isBinary) => {
    for (const other of members) if (other !== member) other.send(data, { binary: isBinary })
  })
  // The close that follows an error does the rest.
  member.on('error', () => {})
  member.on('close', () => {
    members.delete(member)
    if (members.size === 0) rooms.delete(name)
  })
})

server.on('listening', () => console.log(`rooms ws://127.0.0.1:${server.address().port}`))
