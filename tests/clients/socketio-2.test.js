import io from 'socket.io-client';

import { prove } from './socketio.js';

prove('socket.io-client 2.5.0', io);
