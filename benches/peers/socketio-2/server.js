// The part of Porter's work that the Socket.IO jobs ask for, in socket.io 2.5.1: `register` joins the room, `do_push` emits `push` and
// is answered when every client has acknowledged by `push_c` (at once if the message has no time to live), `heartbeat` is answered.
// What is sent to an alias waits in memory until it is acknowledged: at least once, as with Porter, but for a crash.
'use strict'
const http = require('http').createServer()
const io = require('socket.io')(http, { serveClient: false })

const ROOM = 'load'
let members = 0
let lastMid = 0
const waiting = new Map() // mid -> { left, publisher, num }
const queues = new Map() // alias -> Map of mid -> push
const online = new Map() // alias -> socket

const answer = (publisher, num) => publisher.emit('do_push_c', { t: -6, num })

function acknowledge(alias, mid) {
  const queue = queues.get(alias)
  if (queue !== undefined && queue.delete(mid) && queue.size === 0) queues.delete(alias)
  const push = waiting.get(mid)
  if (push === undefined || --push.left > 0) return
  waiting.delete(mid)
  answer(push.publisher, push.num)
}

function publishToAlias(publisher, alias, push, num) {
  if (!queues.has(alias)) queues.set(alias, new Map())
  queues.get(alias).set(push.mid, push)
  const socket = online.get(alias)
  if (socket === undefined) return answer(publisher, num)
  waiting.set(push.mid, { left: 1, publisher, num })
  socket.emit('push', push)
}

io.on('connection', (socket) => {
  const alias = socket.handshake.query.alias
  if (alias !== undefined) {
    online.set(alias, socket)
    for (const push of (queues.get(alias) || new Map()).values()) socket.emit('push', push)
  }
  socket.on('register', () => {
    socket.join(ROOM)
    members += 1
    socket.emit('register_c', { t: -2, num: 0 })
  })
  socket.on('do_push', (data) => {
    const push = { t: 5, mid: String(++lastMid), topic: ROOM, msg: data.msg }
    if (data.method === 'publish_to_alias') return publishToAlias(socket, data.alias, push, data.num)
    const lives = !(data.opts && data.opts.time_to_live === 0)
    if (lives) waiting.set(push.mid, { left: members, publisher: socket, num: data.num })
    io.to(ROOM).emit('push', push)
    if (!lives) answer(socket, data.num)
  })
  socket.on('push_c', (data) => acknowledge(alias, data.mid))
  socket.on('heartbeat', () => socket.emit('heartbeat_c', { t: -1, num: 0 }))
  socket.on('disconnect', () => {
    if (online.get(alias) === socket) online.delete(alias)
  })
})

http.listen(0, '127.0.0.1', () => console.log(`phones http://127.0.0.1:${http.address().port}/socket.io/`))
